# SPDX-License-Identifier: Apache-2.0
"""Packed data in Bridge's own recipe for Llama 3 70B, by Bridge's own checks."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("megatron.core")

from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from tests.bridge.conftest import BRIDGE, needs_bridge
from tests.conftest import EXAMPLES, chat_like_lengths, write_corpus
from tests.trainer import until_0_19

pytestmark = needs_bridge

SCRIPT = Path(__file__).with_name("run_recipe.py")
ROW = 2048
# Bridge 0.6 and later take a config, for which they have a builder of datasets.
PACKED_DATA = "PackedDataProvider" if BRIDGE < (0, 6) else "PackedDataConfig"
STAGES = {"pipeline_model_parallel_size": 2}  # the recipe has 4, which Bridge 0.3 cannot do
# Of each case: what the recipe is changed by, the arguments, and what must come of it.
CASES: dict[str, dict] = {
    "default": {"arguments": {"train": "packs"}},
    "four stages": {"arguments": {"train": "packs"}, "model": {"pipeline_model_parallel_size": 4}},
    "rows": {"arguments": {"train": "packs", "keep": "rows"}},
    "documents": {"arguments": {"train": "packs", "keep": "documents", "documents_per_row": 3.0}},
    "documents of packed rows": {"arguments": {"train": "packs", "keep": "documents"}},
    "ranks": {"arguments": {"train": "packs"}, "world": 6 * 16},
    "settings": {
        "arguments": {"train": "packs", "seed": 3, "attention": "pack"},
        "train": {"micro_batch_size": 2},
        "ddp": {"average_in_collective": True},
    },
    "validation": {"arguments": {"train": "packs", "validation": "whole"}},
    "another length": {"arguments": {"train": "packs", "validation": "short"}},
    "context": {
        "arguments": {"train": "aligned"},
        "model": {"context_parallel_size": 2, "sequence_parallel": True},
    },
    "context without alignment": {
        "arguments": {"train": "packs"},
        "model": {"context_parallel_size": 2},
    },
    "sequence": {"arguments": {"train": "short"}, "model": {"sequence_parallel": True}},
    "fp8": {"arguments": {"train": "packs"}, "top": {"mixed_precision": "bf16_with_mxfp8_mixed"}},
    "fp8 odd": {
        "arguments": {"train": "short"},
        "top": {"mixed_precision": "bf16_with_mxfp8_mixed"},
    },
    "mtp": {"arguments": {"train": "packs"}, "model": {"mtp_num_layers": 1}},
    "graphs": {"arguments": {"train": "packs"}, "model": {"cuda_graph_impl": "local"}},
    "fp8 attention": {
        "arguments": {"train": "packs"},
        "model": {"fp8": "e4m3", "fp8_dot_product_attention": True},
    },
    "yarn": {
        "arguments": {"train": "packs"},
        "model": {"position_embedding_type": "yarn", "apply_rope_fusion": True},
    },
    "window": {
        "arguments": {"train": "aligned"},
        "model": {"context_parallel_size": 2, "window_size": [4095, 0], "cp_comm_type": "p2p"},
    },
    "no index": {"arguments": {"train": "nothing"}},
    "samples": {"arguments": {"train": "packs"}, "train": {"train_samples": 8000}},
    "ramp": {"arguments": {"train": "packs"}, "train": {"rampup_batch_size": [8, 8, 100]}},
    "test alone": {"arguments": {"train": "packs", "test": "whole"}},
    "no documents": {"arguments": {"train": "packs", "keep": "documents", "documents_per_row": 0}},
    "documents of rows": {"arguments": {"train": "packs", "documents_per_row": 3.0}},
    "unknown": {"arguments": {"train": "packs", "keep": "everything"}},
    "blend": {"arguments": {"train": [3, "packs", 1, "whole"], "validation": ["packs", "whole"]}},
    "blend from YAML": {
        "arguments": {"train": [3, "packs", 1, "whole"], "keep": "rows"},
        "yaml": True,
    },
    "blend without weights": {"arguments": {"train": ["packs", "whole"]}},
    "half a blend": {"arguments": {"train": [3, "packs", "whole"]}},
    "weight 0": {"arguments": {"train": [3, "packs", 0, "whole"]}},
    "empty blend": {"arguments": {"train": []}},
    "one corpus of two": {
        "arguments": {"train": ["packs", "whole"], "train_corpus": "/corpus"},
    },
    "blend of two lengths": {"arguments": {"train": [1, "packs", 1, "short"]}},
    "newer Bridge": {"arguments": {"train": "packs"}, "version": "0.8.0+a1b2c3d"},
    "newer Bridge on purpose": {
        "arguments": {"train": "packs", "allow_untested_bridge": True},
        "version": "1.0.0",
    },
    "newer Bridge afterwards": {
        "arguments": {"train": "packs", "allow_untested_bridge": True},
        "version": "1.0.0",
        "after": {"dataset": {"allow_untested_bridge": False}},
    },
}
# What is changed after use_packed_data, and what must be said when Bridge validates the recipe.
CHANGED_AFTERWARDS: dict[str, tuple[dict, str]] = {
    "context parallelism": (
        {"model": {"context_parallel_size": 2}},
        "cut each segment into 4 equal chunks; make one with megatron-packing pack --alignment 4",
    ),
    "row of the model": ({"model": {"seq_length": 4096}}, "cfg.model.seq_length is 4096 and must"),
    "row of the data": ({"dataset": {"seq_length": 1024}}, "cfg.model.seq_length is 2048 and must"),
    "rows of both": (
        {"dataset": {"seq_length": 1024}, "model": {"seq_length": 1024}},
        "has rows of 2048 positions",
    ),
    "micro-batch": ({"train": {"micro_batch_size": 2}}, "cfg.train.micro_batch_size is 2"),
    "loss": (
        {"model": {"calculate_per_token_loss": False}, "ddp": {"average_in_collective": True}},
        "cfg.model.calculate_per_token_loss is False and must be True (otherwise every "
        "row weighs the same); cfg.ddp.average_in_collective is True and must be False",
    ),
    "loader": ({"dataset": {"dataloader_type": "batch"}}, "cfg.dataset.dataloader_type is 'batch'"),
    "attention": ({"dataset": {"attention": "packs"}}, "cfg.dataset.attention is 'packs'"),
    "fp8": ({"model": {"fp8": "e4m3", "fp8_recipe": "blockwise"}}, "a multiple of 128"),
    "mtp": ({"model": {"mtp_num_layers": 1}}, "cfg.model.mtp_num_layers is 1"),
    "graphs": ({"model": {"cuda_graph_impl": "local"}}, "set it to none"),
    "sink": (
        {"model": {"softmax_type": "learnable", "context_parallel_size": 2}},
        "gradient of its offsets 2 times too large",
    ),
    "index": ({"dataset": {"train": "/nothing/here"}}, "/nothing/here is not a pack index"),
    "sequence parallelism": (
        {"model": {"sequence_parallel": True, "tensor_model_parallel_size": 64}},
        "that is a multiple of 64",
    ),
    "virtual stages": (
        {"model": {"virtual_pipeline_model_parallel_size": 2, "overlap_p2p_comm": False}},
        "cfg.model.overlap_p2p_comm is False, but two pipeline stages with virtual stages can",
    ),
}
# Models of other inputs: classes of Bridge, with what its recipes set.
OTHER_INPUTS = {
    "vision": ["qwen_vl.qwen25_vl_provider.Qwen25VLModelProvider", {}],
    "ministral": ["ministral3.ministral3_provider.Ministral3ModelProvider", {}],
    "gemma vision": ["gemma_vl.gemma3_vl_provider.Gemma3VLModelProvider", {}],
    "encoder": ["t5_provider.T5ModelProvider", {}],
}
if BRIDGE >= (0, 6):
    OTHER_INPUTS["audio"] = ["qwen_audio.qwen2_audio_provider.Qwen2AudioModelProvider", {}]
    OTHER_INPUTS["hybrid vision"] = ["nemotron_vl.nemotron_vl_provider.NemotronVLModelProvider", {}]
for name, kind in OTHER_INPUTS.items():
    CASES[name] = {"arguments": {"train": "packs"}, "kind": kind}
PATTERN = "hybrid_override_pattern" if BRIDGE < (0, 5) else "hybrid_layer_pattern"
MAMBA = "mamba.mamba_provider.MambaModelProvider"
DELTA_NET = {
    "experimental_attention_variant": "gated_delta_net",
    "linear_attention_freq": 2,
    "vocab_size": 128,
}
# Models of Bridge with layers other than attention, and how each gets there.
HYBRID: dict[str, dict] = {
    "mamba": {"kind": [MAMBA, {PATTERN: "M-M*M-M*", "vocab_size": 128}]},
    "mamba by default": {"kind": [MAMBA, {"vocab_size": 128}]},
    "hybrid without mamba": {"kind": [MAMBA, {PATTERN: "*-*-*-*-", "vocab_size": 128}]},
    "hybrid with multi-token prediction": {
        "kind": [MAMBA, {PATTERN: "M-M*M-M*/MM", "vocab_size": 128}]
    },
    "delta net": {"kind": ["gpt_provider.GPTModelProvider", DELTA_NET]},
}
if BRIDGE >= (0, 5):
    HYBRID |= {
        "falcon": {"kind": ["falcon_h1.falconh1_provider.FalconH1ModelProvider", {}]},
        "mamba of Bridge 0.4": HYBRID["mamba"] | {"version": "0.4.2"},
        "nemotron": {"recipe": "nemotronh.nemotronh_4b_sft_config"},
        "nemotron 3": {"recipe": "nemotronh.nemotron_3_5_lightning_pretrain_config"},
        "qwen 3 next pretraining": {"recipe": "qwen.qwen3_next.qwen3_next_80b_a3b_pretrain_config"},
        "qwen 3 next tuning": {"recipe": "qwen.qwen3_next.qwen3_next_80b_a3b_sft_config"},
        "qwen 3 next": {"hub": "Qwen3-Next", "model": {"mtp_num_layers": None}},
        "qwen 3.5": {"hub": "Qwen3.5", "model": {"mtp_num_layers": None}},
    }
for name, case in HYBRID.items():
    CASES[name] = {"arguments": {"train": "packs"}, **case}
for name in ("is_hybrid_model", "use_mamba_mem_eff_path"):
    CASES[f"{name} afterwards"] = CASES["mamba"] | {"after": {"model": {name: False}}}
FROM_YAML = ("context parallelism", "loss", "loader", "rows of both")
for name, (changes, _) in CHANGED_AFTERWARDS.items():
    odd = name in ("fp8", "sequence parallelism")
    case = {"arguments": {"train": "odd" if odd else "packs"}, "after": changes}
    CASES[f"{name} afterwards"] = case
    if name in FROM_YAML:
        CASES[f"{name} from YAML"] = {**case, "yaml": True}
if BRIDGE >= (0, 6):
    CASES["epochs"] = {"arguments": {"train": "packs"}, "train": {"num_epochs": 1.5}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    corpus = write_corpus(folder / "corpus", chat_like_lengths(400, longest=ROW))
    (folder / "corpus_corpus.json").write_text('{"tokenizer": "some/tokenizer"}')
    few = write_corpus(folder / "few", chat_like_lengths(30, longest=90))
    for name, documents, changes in (
        ("packs", corpus, {}),
        ("aligned", corpus, {"alignment": 4}),
        ("whole", corpus, {"packs_multiple_of": 96}),
        ("short", few, {"sequence_length": 100}),
        ("odd", corpus, {"sequence_length": 2080}),
    ):
        settings = {"strategy": "optimal", "sequence_length": ROW, **changes}
        build_pack_index(documents, PlanSettings(**settings), folder / name)
    return folder


@pytest.fixture(scope="module")
def results(folder) -> dict[str, dict]:
    """Each case in one process, as Bridge is imported for seconds."""
    cases = [{**case, "model": {**STAGES, **case.get("model", {})}} for case in CASES.values()]
    path = folder / "cases.json"
    path.write_text(json.dumps(cases))
    process = subprocess.run(
        [sys.executable, SCRIPT, folder, path],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    return dict(zip(CASES, found, strict=True))


EVALUATION = "validation" if BRIDGE >= (0, 4) else "train"


def test_all_that_packed_rows_need_is_set_and_said(results):
    changes = results["default"]["changes"]
    assert changes["dataset"].endswith(f" -> {PACKED_DATA}")
    assert changes["model.seq_length"] == "4096 -> 2048"
    assert changes["train.global_batch_size"] == "8 -> 16"  # as many tokens
    assert changes["model.calculate_per_token_loss"] == "False -> True"
    assert changes[f"{EVALUATION}.eval_iters"] == "32 -> 0"
    for setting, change in changes.items():
        assert f"cfg.{setting}: {change} (" in results["default"]["printed"]


def test_recipes_with_middle_stages_need_a_bridge_that_hands_them_boundaries(results):
    result = results["four stages"]
    if BRIDGE < (0, 5):
        assert "use at most 2 stages, or Megatron-Bridge 0.5" in result["error"]
        assert result["dataset"] != PACKED_DATA  # nothing was changed
    else:
        assert "changes" in result


@pytest.mark.parametrize(
    ("case", "rows"), [("rows", None), ("documents", "4"), ("ranks", "18"), ("validation", "16")]
)
def test_the_global_batch_keeps_what_is_asked_for(results, folder, case, rows):
    """Recipe: 8 rows of 4,096. Index: 400 documents in rows of 2,048."""
    change = results[case]["changes"].get("train.global_batch_size")
    assert change == (rows and f"8 -> {rows}")
    if case == "documents":
        packs = json.loads((folder / "packs" / "manifest.json").read_text())["figures"]
        assert 4 <= 8 * 3 / (400 / packs["num_packs"]) < 5
    if case == "ranks":
        assert (
            "an exact match would be 16.00 rows, and 6 ranks share them"
            in (results[case]["printed"])
        )


def test_epochs_and_other_tokenizers_are_told(results, folder):
    """1,000 steps of 16 rows, 75 rows an epoch; the corpus names what it was made with."""
    printed = results["default"]["printed"]
    packs = json.loads((folder / "packs" / "manifest.json").read_text())["figures"]["num_packs"]
    assert f"train_iters 1,000 make {16_000 / packs:,.1f} epochs" in printed
    assert "tokenized with some/tokenizer, but the recipe's tokenizer is meta-llama/" in printed


def test_documents_are_not_guessed_where_the_recipe_packs_already(results):
    assert "needs documents_per_row" in results["documents of packed rows"]["error"]


def test_settings_under_which_packing_would_be_wrong_are_changed(results):
    changes = results["settings"]["changes"]
    assert changes["train.micro_batch_size"] == "2 -> 1"
    assert changes["ddp.average_in_collective"] == "True -> False"


def test_an_evaluation_of_each_document_once_is_told(results):
    """32 evaluation steps of 16 rows, of 96 rows."""
    advice = f"cfg.{EVALUATION}.eval_iters = 6 evaluates each of them once"
    assert advice in results["validation"]["printed"]


def test_a_blend_says_how_often_it_reads_each_index(results, folder):
    """1,000 steps of 16 rows; 96 rows are in the one that is not what the plan made of it."""
    packs = json.loads((folder / "packs" / "manifest.json").read_text())["figures"]["num_packs"]
    for case, shares in (
        ("blend", (0.75, 0.25)),
        ("blend without weights", (packs / (packs + 96), 96 / (packs + 96))),
    ):
        printed = results[case]["printed"]
        for name, rows, share in (("packs", packs, shares[0]), ("whole", 96, shares[1])):
            epoch = rows / share / 16
            assert (
                f"an epoch of {folder / name} is {rows:,} rows: {epoch:,.1f} steps of 16, "
                f"{share:.1%} from this index; train_iters 1,000 make {1000 / epoch:,.1f} epochs"
            ) in printed
    assert "an evaluation reads" not in results["blend"]["printed"]


def test_a_blend_is_read_from_yaml(results):
    assert results["blend from YAML"]["changes"]["dataset"].endswith(PACKED_DATA)


def test_rows_are_told_in_documents_and_tokens(results, folder):
    figures = json.loads((folder / "packs" / "manifest.json").read_text())["figures"]
    documents = 16 * 400 / figures["num_packs"]
    tokens = 16 * figures["num_positions"] / figures["num_packs"]
    assert (
        f"a step has about {documents:,.0f} documents and {tokens:,.0f} tokens, "
        f"{tokens / 16 / ROW:.2%} of its positions"
    ) in results["default"]["printed"]


def test_test_documents_alone_keep_evaluations(results):
    assert f"{EVALUATION}.eval_iters" not in results["test alone"]["changes"]


def test_a_bridge_that_is_newer_than_the_tested_ones_is_taken_on_purpose_only(results):
    for case, key in (
        ("newer Bridge", "error"),
        ("newer Bridge afterwards", "refused when validated"),
    ):
        assert (
            "is newer than 0.7, the newest release that was tested with packed data"
            in results[case][key]
        )
        assert "allow_untested_bridge=True" in results[case][key]
    assert "changes" in results["newer Bridge on purpose"]


@pytest.mark.parametrize("case", ["context", "fp8"])
def test_rows_that_the_layout_can_cut_are_taken(results, case):
    assert "changes" in results[case]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("another length", "has rows of 100 positions, but the training rows have"),
        ("context without alignment", "cut each segment into 4 equal chunks; make one with"),
        ("sequence", "that is a multiple of 8"),
        ("fp8 odd", "that is a multiple of 32"),
        ("mtp", "cfg.model.mtp_num_layers is 1"),
        ("graphs", "set it to none"),
        ("fp8 attention", "cfg.model.fp8_dot_product_attention is not supported with packing"),
        pytest.param("yarn", "give cfg.model.apply_rope_fusion = False", marks=until_0_19),
        ("window", "use cfg.model.cp_comm_type a2a"),
        (
            "samples",
            "train_samples is 8000, which counts rows, but the global batch changes from 8",
        ),
        ("ramp", "cfg.train.rampup_batch_size is"),
        ("no documents", "documents_per_row is 0; give the number"),
        ("documents of rows", 'and only with keep="documents"'),
        ("no index", "is not a pack index"),
        ("unknown", "keep is 'everything'; use one of tokens, documents, rows"),
        ("half a blend", "give only paths, or a weight before each path: [0.3, A, 0.7, B]"),
        ("weight 0", "the weight 0; give it a weight greater than 0"),
        ("empty blend", "train is [], which is not a blend of pack indexes"),
        ("one corpus of two", "train_corpus names 1 corpus, but train has 2 pack indexes"),
        ("blend of two lengths", "has rows of 100 positions, but the training rows"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence_and_left_as_it_was(
    results, case, message
):
    assert message in results[case]["error"]
    assert results[case]["dataset"] != PACKED_DATA


@pytest.mark.parametrize("case", CHANGED_AFTERWARDS)
def test_what_is_changed_afterwards_is_checked_when_bridge_validates_the_recipe(results, case):
    _, message = CHANGED_AFTERWARDS[case]
    assert message in results[f"{case} afterwards"]["refused when validated"]


@pytest.mark.parametrize("case", FROM_YAML)
def test_a_recipe_that_is_read_from_yaml_is_checked_as_well(results, case):
    _, message = CHANGED_AFTERWARDS[case]
    assert message in results[f"{case} from YAML"]["refused when validated"]


@pytest.mark.parametrize("case", OTHER_INPUTS)
def test_models_with_other_inputs_than_tokens_are_refused(results, case):
    name = OTHER_INPUTS[case][0].rpartition(".")[2]
    assert f"cfg.model is {name}, a model with inputs other than tokens" in results[case]["error"]
    assert results[case]["dataset"] != PACKED_DATA


@pytest.mark.parametrize("case", ["mamba", "mamba by default"])
def test_mamba_layers_are_told_where_documents_begin(results, case):
    """By a flag from 0.5 on; megatron-core 0.16, which Bridge 0.3 needs, tells them on its own."""
    changes = results[case]["changes"]
    if BRIDGE < (0, 5):
        assert "model.is_hybrid_model" not in changes
    else:
        assert changes["model.is_hybrid_model"] == "False -> True"
        assert (
            "cfg.model.is_hybrid_model: False -> True (otherwise Bridge does not pass Mamba layers "
            "document boundaries)"
        ) in results[case]["printed"]


@pytest.mark.parametrize("name", ["is_hybrid_model", "use_mamba_mem_eff_path"])
def test_what_mamba_layers_need_is_checked_when_bridge_validates_the_recipe(results, name):
    result = results[f"{name} afterwards"]
    if BRIDGE < (0, 5) and name == "is_hybrid_model":
        assert "changes" in result
    else:
        assert (
            f"cfg.model.{name} is False and cfg.model is a hybrid"
            in (result["refused when validated"])
        )


def test_a_hybrid_model_without_mamba_layers_needs_no_boundaries(results):
    changes = results["hybrid without mamba"]["changes"]
    assert "model.use_mamba_mem_eff_path" not in changes
    # It has a padding mask from 0.7 on, which Bridge cuts by this flag.
    assert ("model.is_hybrid_model" in changes) == (BRIDGE >= (0, 7))


def test_layers_of_multi_token_prediction_in_a_pattern_are_refused(results):
    refusal = results["hybrid with multi-token prediction"]["error"]
    assert "layer pattern is M-M*M-M*/MM, whose layers after / are not supported" in refusal


def test_gated_delta_net_is_refused_where_it_does_not_take_packed_rows(results):
    if BRIDGE < (0, 5):
        assert "which megatron-core 0.16 does not support" in results["delta net"]["error"]
    else:
        assert "changes" in results["delta net"]


@pytest.mark.skipif(BRIDGE < (0, 5), reason="Bridge has these models from 0.5 on")
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("falcon", "cfg.model is FalconH1ModelProvider, but Megatron-Bridge's FalconH1Model takes"),
        ("mamba of Bridge 0.4", "Megatron-Bridge 0.4 does not pass them document boundaries"),
        ("nemotron 3", "cfg.model.mtp_num_layers is 2, which is not supported with packing"),
        ("qwen 3 next pretraining", "would also train on prompts; set it to None"),
    ],
)
def test_hybrid_models_that_would_train_wrongly_are_refused(results, case, message):
    assert message in results[case]["error"]
    assert results[case]["dataset"] != PACKED_DATA


@pytest.mark.skipif(BRIDGE < (0, 5), reason="Bridge has these models from 0.5 on")
def test_falcon_still_takes_no_document_boundaries():
    """If this fails, a release has closed the gap: accept the model from that release on."""
    path = "megatron/bridge/models/falcon_h1/modeling_falconh1/falconh1_model.py"
    source = Path(distribution("megatron-bridge").locate_file(path)).read_text()
    assert "def forward(" in source
    assert "packed_seq_params" not in source


@pytest.mark.skipif(BRIDGE < (0, 5), reason="Bridge has these models from 0.5 on")
def test_nemotron_trains_by_the_code_that_takes_packed_rows(results):
    changes = results["nemotron"]["changes"]
    assert changes["model.use_mamba_mem_eff_path"] == "False -> True"
    assert "model.is_hybrid_model" not in changes  # the recipe sets it


@pytest.mark.skipif(BRIDGE < (0, 5), reason="Bridge has these models from 0.5 on")
@pytest.mark.parametrize("case", ["qwen 3 next", "qwen 3 next tuning", "qwen 3.5"])
def test_qwen_without_multi_token_prediction_is_taken(results, case):
    assert "model.is_hybrid_model" not in results[case]["changes"]


@pytest.mark.skipif(BRIDGE < (0, 6), reason="Bridge counts epochs from 0.6 on")
def test_epochs_become_steps(results, folder):
    figures = json.loads((folder / "packs" / "manifest.json").read_text())["figures"]
    steps = math.ceil(1.5 * figures["num_packs"] / 16)
    changes = results["epochs"]["changes"]
    assert changes["train.num_epochs"] == "1.5 -> None"
    assert changes["train.train_iters"] == f"1000 -> {steps}"


@pytest.mark.slow
def test_the_example_sets_up_the_recipe(folder):
    """examples/llama3_70b_sft/bridge_recipe.py, up to where Bridge begins to train."""
    script = EXAMPLES / "llama3_70b_sft" / "bridge_recipe.py"
    words = ["--train", folder / "packs", "--validation", folder / "whole"]
    words += ["--pretrained-checkpoint", folder, "--save", "here", "--epochs", "3"]
    words += ["--global-batch-size", "16"]
    process = subprocess.run(
        [sys.executable, SCRIPT.with_name("run_example.py"), script, *map(str, words)],
        env={**os.environ, "WORLD_SIZE": "32"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    if BRIDGE < (0, 5):  # the recipe has four pipeline stages
        assert "use at most 2 stages, or Megatron-Bridge 0.5" in process.stderr
        return
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    packs = json.loads((folder / "packs" / "manifest.json").read_text())["figures"]["num_packs"]
    assert found == {
        "dataset": PACKED_DATA,
        "row": ROW,
        "stages": 4,
        "context": 1,
        "batch": 16,
        "steps": round(3 * packs / 16),
        "evaluation": 96 // 16,
        "save": "here",
        "step": "megatron.bridge.training.gpt_step.forward_step",
    }
