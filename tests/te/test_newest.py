# SPDX-License-Identifier: Apache-2.0
"""Packed rows through the newest tested release of Transformer Engine."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("megatron.core")

from tests.conftest import ROOT
from tests.te.lane import check_alone, check_shared, check_waits, lane
from tests.te.wheels import RELEASES
from tests.trainer import needs_trainer, until_0_19

pytestmark = needs_trainer
# packed_through_te.py says what they are.
OPTIONS = (
    "grouped queries",
    "unfused rotation",
    "interleaved",
    "interleaved, unfused",
    "window",
    "sink",
    "learnable sink",
    "learnable sink, window",
    "norm of queries and keys",
    "LayerNorm and biases",
    "learned positions",
    "yarn",
    "latent",
    "latent, yarn",
)


@pytest.fixture(scope="module")
def run():
    return lane("newest", RELEASES[0])


@pytest.mark.parametrize("option", OPTIONS)
def test_documents_in_a_row_train_as_they_do_alone(run, option):
    check_alone(run, option)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "kind", "ranks"),
    [
        ("grouped queries", "p2p", 2),
        ("grouped queries", "p2p", 4),
        ("grouped queries", "a2a", 2),
        ("grouped queries", "a2a", 4),
        ("grouped queries", "all_gather", 2),
        ("grouped queries", "all_gather", 4),
        ("grouped queries", "a2a+p2p", 4),
        ("window", "a2a", 2),
        ("window", "all_gather", 2),
        ("sink", "a2a", 2),
        ("yarn", "p2p", 2),
        ("latent, yarn", "p2p", 2),
        ("interleaved, unfused", "p2p", 2),
    ],
)
def test_ranks_that_share_a_row_train_as_one_does(run, tmp_path, option, kind, ranks):
    check_shared(run, option, kind, ranks, tmp_path)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_gradient_of_a_learnable_sink_is_wrong_by_the_number_of_ranks(run, tmp_path, ranks):
    """So it is refused; if this fails with a ratio of 1, a release has corrected it."""
    found = check_shared(run, "learnable sink", "a2a", ranks, tmp_path)
    assert found["ratios"] == {"softmax_offset": pytest.approx(ranks, rel=1e-5)}


@pytest.mark.parametrize(
    "option",
    [
        *("grouped queries", "unfused rotation", "interleaved, unfused", "yarn", "latent, yarn"),
        "multi-token prediction",
    ],
)
def test_the_host_waits_nowhere_in_a_step(run, option):
    check_waits(run, option)


@pytest.mark.parametrize(
    "option",
    [
        *(pytest.param(option, marks=pytest.mark.slow) for option in ("latent, yarn", "yarn")),
        pytest.param("unfused rotation", marks=pytest.mark.slow),
        "multi-token prediction",
    ],
)
def test_no_shape_and_no_value_of_a_step_depends_on_the_pack(run, option):
    """So a captured CUDA graph could be replayed on any pack."""
    found = run("operations", option)
    assert found["layouts"] > 40
    assert found["operations"] > 100
    assert found["differing"] == []
    assert found["steps"] == 1


@pytest.mark.parametrize(
    ("tensor", "pipeline", "sequence"), [(2, 1, ""), (2, 1, "sequence"), (1, 3, ""), (2, 3, "")]
)
def test_no_rank_waits_and_rows_need_one_message(run, tensor, pipeline, sequence):
    check_waits(run, "grouped queries", tensor, pipeline, sequence)


@until_0_19
def test_the_host_would_wait_in_every_layer_with_megatrons_own_rotation(run):
    """Twice for queries and twice for keys, in each of two layers."""
    (found,) = run("waits of megatron", "unfused rotation")["ranks"]
    assert len(found["second waits"]) == 8
    assert all("rope_utils.py" in place for place in found["second waits"])


def test_chunks_in_the_wrong_order_are_seen(run, tmp_path):
    path = tmp_path / "row.pt"
    run("row", "grouped queries", path)
    found = run("swapped", "grouped queries", path, "p2p", ranks=2)
    assert found["gradient"] > 1e-3


@pytest.mark.parametrize("fault", ["mask", pytest.param("factor", marks=until_0_19)])
def test_faults_that_raise_no_error_change_the_losses(run, fault):
    assert run("fault", "none") == {"difference": 0}
    assert run("fault", fault)["difference"] > 1e-3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("longest", "a segment has 100 > max_seqlen_q 99"),
        ("cover", "cu_seqlens_q covers 248 of 256 positions"),
        ("int64", "int32"),
    ],
)
def test_faults_that_a_gpu_would_not_report_raise_errors(run, fault, message):
    assert message in run("fault", fault)["error"]


def test_what_has_no_fused_kernel_is_refused_before_the_first_step(run):
    found = run("refusals")
    assert found["release"].startswith(RELEASES[0])
    assert len(found["rows"]) > 150
    for row in found["rows"]:
        has_kernel = row["kind"] in ("cuDNN", "flash-attn")
        assert has_kernel or row["refusal"], row
        # With a kernel, only what trains wrongly or fails later is refused.
        name = row["configuration"]
        fails_later = "p2p, sliding window" in name or "a2a, learnable sink" in name
        assert not has_kernel or bool(row["refusal"]) is fails_later, row
        if row["kind"] == "none" or (has_kernel and row["refusal"]):
            assert row["refusal if allowed"], row
        else:
            assert not row["refusal if allowed"], row
    assert {row["kind"] for row in found["rows"]} == {"cuDNN", "flash-attn", "unfused", "none"}


def test_the_table_of_the_documentation_is_what_the_script_makes(run):
    page = (ROOT / "docs" / "te-backends.md").read_text()
    assert run("table")["table"] in page, "run tools/make_te_table.py"


@pytest.mark.parametrize(
    ("machine", "settings", "cure"),
    [
        ("8.0", {}, "install flash-attn 2, or insist with --packing-allow-unfused-attention"),
        ("8.0", {"context_parallel_size": 2}, "To train, install flash-attn 2"),
        ("9.0", {"deterministic_mode": True}, "leave --deterministic-mode out, or install"),
        ("9.0", {"params_dtype": "float32"}, "To train, use bfloat16 (--bf16)"),
        ("8.0, flash-attn", {"qk_clip": True}, "leave --qk-clip and --log-max-attention-logit out"),
        ("9.0", {"attention_backend": "unfused"}, "leave --attention-backend out"),
        ("9.0", {"attention_backend": "local"}, "leave --attention-backend out"),
    ],
)
def test_a_refusal_names_a_cure_that_transformer_engine_accepts(run, machine, settings, cure):
    refusal = run("settings", machine, json.dumps(settings))["refusal"]
    assert cure in refusal
    assert "because: " in refusal
    assert "because: ." not in refusal


def test_memory_of_unfused_attention_is_said(run):
    refusal = run("settings", "8.0", "{}")["refusal"]
    scores = 128 * 32 * 7168**2  # documents, heads, and scores of each
    assert f"scores of up to {scores * 2 / 1e9:.0f} GB a layer" in refusal


def test_a_newer_cudnn_may_have_the_kernel(run):
    heads = json.dumps({"kv_channels": 256})
    assert "heads of 256" in run("settings", "10.0", heads)["refusal"]
    line, _ = run("settings", "10.0", heads, "[9, 25, 0]")["lines"]
    assert line == "attention of all layers over packed rows: Transformer Engine, cuDNN"


FLASH_OF_256 = {"kv_channels": 256, "attention_backend": "flash"}


def test_heads_that_cudnn_computes_wrongly_are_refused_and_others_are_taken(run):
    def of_channels(channels, cudnn):
        return run("settings", "9.0", json.dumps({"kv_channels": channels}), cudnn)

    for cudnn in ("[9, 14, 0]", "[9, 19, 0]"):
        refusal = of_channels(256, cudnn)["refusal"]
        assert "256 channels, but cuDNN 9.1" in refusal
        assert "install flash-attn 2 and set --attention-backend to flash" in refusal
    flash = run("settings", "9.0, flash-attn", json.dumps(FLASH_OF_256), "[9, 14, 0]")
    (line,) = flash["lines"]
    assert line.endswith("Transformer Engine, flash-attn")
    for channels, cudnn in ((256, "[9, 21, 0]"), (160, "[9, 14, 0]")):
        line, warning = of_channels(channels, cudnn)["lines"]
        assert line.endswith("Transformer Engine, cuDNN")
        assert f"warning: heads of {channels} channels" in warning
        assert "were not compared with float64" in warning
    for channels in (64, 96, 128):
        assert len(of_channels(channels, "[9, 14, 0]")["lines"]) == 1


def test_layers_with_and_without_a_window_are_asked_about(run):
    windows = {"window_size": [127, 0], "window_attn_skip_freq": 2}
    first, second = run("settings", "9.0", json.dumps(windows))["lines"]
    assert "layers with a window" in first
    assert "layers without a window" in second
    sinks = windows | {"softmax_type": "off-by-one"}
    assert "layers with a window" in run("settings", "8.0", json.dumps(sinks))["refusal"]


def test_both_trainers_ask(run):
    found = run("paths")
    assert "insist with --packing-allow-unfused-attention" in found["megatron"]
    assert "insist with use_packed_data(..., allow_unfused_attention=True)" in found["bridge"]


@pytest.mark.slow
def test_recipes_of_bridge_are_fused_where_that_trains_alike(run, tmp_path):
    found = run("rotation", tmp_path)
    changed = found.pop("rope")
    assert changed["change"][0].startswith("False -> True")
    assert changed["line"].endswith("Megatron's fused kernel")
    assert found.pop("fused")["line"] == changed["line"]
    assert found.pop("learned")["line"] is None
    reasons = {
        "yarn": "does not fuse them for position_embedding_type yarn",
        "factor": "does not scale as YaRN does",
        "local": "the layers are not Transformer Engine's",
        "latent": "multi-latent attention is experimental",
        "choice of a class": "ExaoneMoeModelProvider says so",
    }
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert found[name]["change"] == []
        assert found[name]["line"].startswith("rotary embeddings of packed rows: not fused; ")
        assert reason in found[name]["line"]


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["pinned", "pageable"])
def test_bridges_own_batches_wait_only_where_the_loader_pins_no_memory(run, tmp_path, memory):
    """Ours are in pinned memory, as cfg.dataset.pin_memory is Bridge's default."""
    waits = run("waits of bridge", tmp_path, memory)["waits"]
    assert bool(waits) is (memory == "pageable")
    assert all("cuda of memory that is not pinned" in wait for wait in waits)
