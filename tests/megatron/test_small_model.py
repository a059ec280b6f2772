# SPDX-License-Identifier: Apache-2.0
"""check-model builds what Megatron's flags ask for, small, and finds the layer that leaks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.trainer import needs_trainer, run_script

pytestmark = needs_trainer

SCRIPT = Path(__file__).with_name("check_small_models.py")
DENSE = """
    --num-layers 32 --hidden-size 4096 --num-attention-heads 32 --group-query-attention
    --num-query-groups 8 --swiglu --normalization RMSNorm --position-embedding-type rope
    --max-position-embeddings 8192 --untie-embeddings-and-output-weights --disable-bias-linear
"""
EXPERTS = """
    --num-experts 256 --moe-router-topk 8 --moe-layer-freq ([0]*5+[1]*27) --moe-ffn-hidden-size 2048
    --moe-shared-expert-intermediate-size 2048 --moe-router-num-groups 8 --moe-router-group-topk 4
    --moe-router-load-balancing-type seq_aux_loss --moe-aux-loss-coeff 1e-3 --moe-grouped-gemm
"""
LATENT = """
    --num-layers 32 --hidden-size 7168 --num-attention-heads 128 --multi-latent-attention
    --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 --qk-pos-emb-head-dim 64
    --v-head-dim 128 --qk-layernorm --rope-type yarn --swiglu --normalization RMSNorm
    --position-embedding-type rope --max-position-embeddings 163840 --disable-bias-linear
"""
WINDOWS = """
    --window-size 1023,0 --window-attn-skip-freq 6 --qk-layernorm --softmax-type learnable
    --no-rope-freq 4
"""
HYBRID = f"{DENSE} --hybrid-layer-pattern"

# Flags, the kinds of layers, and how many are kept.
RIGHT = {
    "dense": (DENSE, ["SelfAttention"], 4),
    "learned positions": (
        "--num-layers 3 --hidden-size 512 --num-attention-heads 8 --max-position-embeddings 2048",
        ["SelfAttention"],
        3,
    ),
    "experts": (DENSE + EXPERTS, ["SelfAttention"], 6),
    "latent attention and experts": (LATENT + EXPERTS, ["MLASelfAttention"], 6),
    "sliding windows, sinks": (DENSE + WINDOWS, ["SelfAttention"], 12),
    "computed again": (
        f"{DENSE} --recompute-granularity full --recompute-method uniform --recompute-num-layers 4",
        ["SelfAttention"],
        4,
    ),
    "own layers": (
        f"{DENSE} --spec tests.megatron.leaking_layers right",
        ["SelfAttention"],
        4,
    ),
    "hybrid": (
        f"{HYBRID} *-*-*-*E|*-*- --num-experts 16 --moe-ffn-hidden-size 2048",
        ["SelfAttention"],
        8,
    ),
    "hybrid with Mamba": (f"{HYBRID} M-M-M-*-M-M-", ["PlainMixer", "SelfAttention"], 7),
    "multi-token prediction": (f"{DENSE} --mtp-num-layers 2", ["SelfAttention"], 4),
    "hybrid with multi-token prediction": (f"{HYBRID} *-*-/*-", ["SelfAttention"], 4),
    "hybrid with latent attention": (f"{LATENT} --hybrid-layer-pattern +-+-", ["MLASelfAttention"],
        4,
    ),
}  # fmt: skip

# Flags, what is broken meanwhile, and what must be said.
LEAKS = {
    "own layers": (
        f"{DENSE} --spec tests.megatron.leaking_layers leaking",
        None,
        r"GPTModel does not keep documents apart with layers of your own: .* of a row changed "
        r"when .* first in layer 3 of 4 \(attention\): likely its attention kernel or mask ignores "
        r"cu_seqlens; do not train it",
    ),
    "hybrid": (
        f"{HYBRID} M-M-M-*-M-M-",
        "no seq_idx",
        r"HybridModel does not .* with Megatron's local layers: .* first in layer 1 of 7 "
        r"\(Mamba\): likely because Mamba got no seq_idx",
    ),
}

REFUSED = {
    f"{DENSE} --num-layer 3": r"neither Megatron nor this package has --num-layer; did you mean --",
    f"{DENSE} --num-experts many": r"--megatron-flags: argument --num-experts: invalid int value",
    f"{DENSE} --hidden-size 0": r"hidden size is 0; give at least 1",
    "--num-layers 32": r"--megatron-flags: Megatron refuses them: .*hidden_size",
    f"{DENSE} --squared-relu": r"the small model cannot be built on a CPU \(.*--packing-check",
    f"{DENSE} --moe-expert-capacity-factor 1": r"--moe-expert-capacity-factor is not supported w",
    f"{DENSE} --experimental-attention-variant gated_delta_net": r"gated delta nets, whose kernels",
    f"{HYBRID} *-G-": r"the model has gated delta nets, whose kernels need a GPU",
    f"{DENSE} --packing-attention pack": r"so there is nothing to check; leave it out",
    f"{DENSE} --heterogeneous-layers-config-path a.json": r"cannot be checked without a run: it",
    f"{DENSE} --seq-length $LENGTH": r"--megatron-flags has \$LENGTH, which a shell would replace",
    "no_such_file": r"--megatron-flags no_such_file: No such file or directory; give flags such",
    f"{DENSE} --spec no_such_module layers": r"--spec no_such_module layers cannot be import",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What came of all cases, which run in one process, as each costs a second."""
    folder = tmp_path_factory.mktemp("small")
    file = folder / "flags.sh"
    file.write_text(
        f"# Llama\npython -m x train.py \\\n {DENSE.replace(chr(10), ' ')} \\\n --lr 1\n"
    )
    cases = {("right", name): {"words": ["--megatron-flags", RIGHT[name][0]]} for name in RIGHT}
    for name, (flags, bug, _) in LEAKS.items():
        cases["leaks", name] = {"words": ["--megatron-flags", flags], "bug": bug}
    for flags in REFUSED:
        cases["refused", flags] = {"words": ["--megatron-flags", flags]}
    cases["file"] = {"words": ["--megatron-flags", str(file), "--device", "cpu"]}
    cases["device"] = {"words": ["--megatron-flags", DENSE, "--device", "cuda"]}
    path = folder / "cases.json"
    path.write_text(json.dumps(list(cases.values())))
    run = run_script([str(SCRIPT), str(path)], 1)
    assert run.status == 0, run.output[-3000:]
    (line,) = re.findall(r"^ANSWERS (.*)$", run.output, re.MULTILINE)
    return dict(zip(cases, json.loads(line), strict=True))


@pytest.mark.parametrize("name", RIGHT)
def test_right_models_of_all_kinds_are_apart_with_their_kinds_of_layers(answers, name):
    answer, (_, kinds, num_layers) = answers["right", name], RIGHT[name]
    assert answer["status"] == 0, answer["error"]
    record = answer["record"]
    assert record["apart"]
    assert record["kinds"] == kinds
    assert record["num_layers"] == num_layers
    assert record["num_parameters"] < 20e6
    (finding,) = record["findings"]
    assert finding["moved"] == finding["gradient"] == 0
    assert finding["alone"] < 1e-5
    whose = "your own layers" if "--spec" in RIGHT[name][0] else "local layers"
    assert f"These were {whose}" in answer["output"]


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found_and_its_layer_named(answers, name):
    answer, (_, _, sentence) = answers["leaks", name], LEAKS[name]
    assert answer["status"] == 1
    assert re.search(sentence, answer["error"]), answer["error"]
    (finding,) = answer["record"]["findings"]
    assert finding["outcome"] == "leaks"
    assert finding["layer"] in answer["error"]
    assert finding["moved"] > 1e-3


@pytest.mark.parametrize("flags", REFUSED)
def test_what_cannot_be_checked_is_refused_in_one_sentence(answers, flags):
    answer = answers["refused", flags]
    assert answer["status"] == 1
    assert re.search(REFUSED[flags], answer["error"]), answer["error"]
    assert "\n" not in answer["error"]
    assert answer["record"] is None


def test_a_file_of_a_command_is_read_and_what_chooses_no_layers_is_named(answers):
    answer = answers["file"]
    assert answer["record"]["findings"] == answers["right", "dense"]["record"]["findings"]
    assert "Left out, as they do not choose layers: --lr." in answer["output"]


def test_a_gpu_that_is_not_there_is_said(answers):
    assert answers["device"]["error"].endswith("--device is cuda, but torch finds no GPU; give cpu")


def test_the_page_shows_what_is_said_of_a_leak(answers):
    page = (ROOT / "docs" / "check-model.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^megatron-packing: error: .* with layers of your own: .*$", page, re.M)
    figure = r"\d\.\de[+-]\d\d"
    said = answers["leaks", "own layers"]["error"]
    assert re.sub(figure, "F", shown) == re.sub(figure, "F", said)
