"""Packed data in Bridge's own recipe for Llama 3 70B, by Bridge's own checks."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PlanSettings
from tests.conftest import EXAMPLES, chat_like_lengths, write_corpus
from tests.nemo.conftest import BRIDGE, needs_bridge

pytestmark = needs_bridge

SCRIPT = Path(__file__).with_name("run_recipe.py")
ROW = 2048
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
    "no index": {"arguments": {"train": "nothing"}},
    "samples": {"arguments": {"train": "packs"}, "train": {"train_samples": 8000}},
    "ramp": {"arguments": {"train": "packs"}, "train": {"rampup_batch_size": [8, 8, 100]}},
    "test alone": {"arguments": {"train": "packs", "test": "whole"}},
    "no documents": {"arguments": {"train": "packs", "keep": "documents", "documents_per_row": 0}},
    "documents of rows": {"arguments": {"train": "packs", "documents_per_row": 3.0}},
    "unknown": {"arguments": {"train": "packs", "keep": "everything"}},
}
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
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    return dict(zip(CASES, found, strict=True))


EVALUATION = "validation" if BRIDGE >= (0, 4) else "train"


def test_all_that_packed_rows_need_is_set_and_said(results):
    changes = results["default"]["changes"]
    assert changes["dataset"].endswith(" -> PackedDataProvider")
    assert changes["model.seq_length"] == "4096 -> 2048"
    assert changes["train.global_batch_size"] == "8 -> 16"  # as many tokens
    assert changes["model.calculate_per_token_loss"] == "False -> True"
    assert changes[f"{EVALUATION}.eval_iters"] == "32 -> 0"
    for setting, change in changes.items():
        assert f"cfg.{setting}: {change} (" in results["default"]["printed"]


def test_recipes_with_middle_stages_need_a_bridge_that_hands_them_boundaries(results):
    result = results["four stages"]
    if BRIDGE < (0, 5):
        assert "use 2 stages at most, or Megatron-Bridge 0.5" in result["error"]
        assert result["dataset"] != "PackedDataProvider"  # nothing was changed
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
            "exactly as before would be 16.00 rows, and 6 ranks share them"
            in (results[case]["printed"])
        )


def test_epochs_and_other_tokenizers_are_told(results, folder):
    """1,000 steps of 16 rows, 75 rows an epoch; the corpus names what it was made with."""
    printed = results["default"]["printed"]
    packs = json.loads((folder / "packs" / "manifest.json").read_text())["figures"]["num_packs"]
    assert f"train_iters 1,000 are {16_000 / packs:,.1f} epochs" in printed
    assert "tokenised with some/tokenizer, the recipe's tokenizer is meta-llama/" in printed


def test_documents_are_not_guessed_where_the_recipe_packs_already(results):
    assert "needs documents_per_row" in results["documents of packed rows"]["error"]


def test_settings_under_which_packing_would_be_wrong_are_changed(results):
    changes = results["settings"]["changes"]
    assert changes["train.micro_batch_size"] == "2 -> 1"
    assert changes["ddp.average_in_collective"] == "True -> False"


def test_an_evaluation_of_each_document_once_is_told(results):
    """32 evaluation steps of 16 rows, of 96 rows."""
    advice = f"cfg.{EVALUATION}.eval_iters = 6 takes each of them once"
    assert advice in results["validation"]["printed"]


def test_test_documents_alone_keep_evaluations(results):
    assert f"{EVALUATION}.eval_iters" not in results["test alone"]["changes"]


@pytest.mark.parametrize("case", ["context", "fp8"])
def test_rows_that_the_layout_can_cut_are_taken(results, case):
    assert "changes" in results[case]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("another length", "has rows of 100 positions and that of the training documents rows of"),
        ("context without alignment", "cuts them into 4 equal chunks; make one with"),
        ("sequence", "that is a multiple of 8"),
        ("fp8 odd", "that is a multiple of 32"),
        ("mtp", "cfg.model.mtp_num_layers is 1"),
        ("graphs", "set it to none"),
        ("samples", "cfg.train.train_samples is 8000, in rows of which a global batch had 8 and"),
        ("ramp", "cfg.train.rampup_batch_size is"),
        ("no documents", "documents_per_row is 0; it goes with"),
        ("documents of rows", 'it goes with keep="documents" only'),
        ("no index", "is not a pack index"),
        ("unknown", "keep is 'everything'; use one of tokens, documents, rows"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence_and_left_as_it_was(
    results, case, message
):
    assert message in results[case]["error"]
    assert results[case]["dataset"] != "PackedDataProvider"


@pytest.mark.skipif(BRIDGE < (0, 6), reason="Bridge counts epochs from 0.6 on")
def test_epochs_become_steps(results, folder):
    figures = json.loads((folder / "packs" / "manifest.json").read_text())["figures"]
    steps = math.ceil(1.5 * figures["num_packs"] / 16)
    changes = results["epochs"]["changes"]
    assert changes["train.num_epochs"] == "1.5 -> None"
    assert changes["train.train_iters"] == f"1000 -> {steps}"


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
        timeout=120,
        check=False,
    )
    if BRIDGE < (0, 5):  # the recipe has four pipeline stages
        assert "use 2 stages at most, or Megatron-Bridge 0.5" in process.stderr
        return
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    packs = json.loads((folder / "packs" / "manifest.json").read_text())["figures"]["num_packs"]
    assert found == {
        "dataset": "PackedDataProvider",
        "row": ROW,
        "stages": 4,
        "context": 1,
        "batch": 16,
        "steps": round(3 * packs / 16),
        "evaluation": 96 // 16,
        "save": "here",
        "step": "megatron.bridge.training.gpt_step.forward_step",
    }
