# SPDX-License-Identifier: Apache-2.0
"""Operations of models: by hand, and as Megatron counts them for the same flags."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest

from megatron_packing.commands.model_shape import add_model_arguments, model_of
from megatron_packing.errors import InputError
from megatron_packing.flops.model import LAYER_NAMES, ModelShape, count_layers
from megatron_packing.flops.models import MODELS as KNOWN
from tests.limits import TIME_LIMIT
from tests.trainer import needs_trainer

SCRIPT = Path(__file__).with_name("megatron_count.py")
TOKENS, SQUARES = 4000, 7_000_000
# Of each model: flags that Megatron and compare share; those of Megatron alone; those of compare.
DENSE = "--hidden-size 512 --ffn-hidden-size 1024"
MODELS: dict[str, tuple[str, str, str]] = {
    "transformer": (DENSE, "--num-layers 4 --swiglu", "--layers 4"),
    "mamba": (
        f"{DENSE} --hybrid-layer-pattern M-M*-M --mamba-num-heads 16 --mamba-head-dim 64",
        "",
        "--ungated-mlp",
    ),
    "mamba by default": (f"{DENSE} --hybrid-layer-pattern MM*", "", "--ungated-mlp"),
    "other mamba": (
        f"{DENSE} --hybrid-layer-pattern M* --mamba-state-dim 32 --mamba-head-dim 32 "
        f"--mamba-num-groups 2",
        "--swiglu",
        "",
    ),
    "gated delta net": (
        f"{DENSE} --hybrid-layer-pattern G-G*- --linear-key-head-dim 32 --linear-value-head-dim 64 "
        f"--linear-num-key-heads 4 --linear-num-value-heads 8 --kv-channels 128",
        "--swiglu",
        "",
    ),
    "gated delta net by default": (f"{DENSE} --hybrid-layer-pattern GG", "--swiglu", ""),
    "experts": (
        f"{DENSE} --hybrid-layer-pattern ME*E --moe-router-topk 3 --moe-ffn-hidden-size 96 "
        f"--moe-shared-expert-intermediate-size 160",
        "--num-experts 8",
        "--ungated-mlp",
    ),
    "no attention": (f"{DENSE} --hybrid-layer-pattern M-", "--swiglu", ""),
}
SHARED = "--vocabulary-size 1000 --heads 8 --query-groups 2"
MEGATRONS = "--vocab-size 1000 --num-attention-heads 8 --group-query-attention --num-query-groups 2"


def shape_of(flags: str) -> ModelShape:
    """The model that ``megatron-packing compare`` makes of flags."""
    parser = ArgumentParser()
    add_model_arguments(parser)
    return model_of(parser.parse_args(flags.split()))


@pytest.fixture(scope="module")
def counted_by_megatron() -> dict[str, float]:
    """All models in one process, as the trainer is imported for seconds."""
    flags = [f"{MEGATRONS} {common} {own}" for common, own, _ in MODELS.values()]
    process = subprocess.run(
        [sys.executable, SCRIPT, str(TOKENS), str(SQUARES), *flags],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return dict(zip(MODELS, json.loads(process.stdout.splitlines()[-1]), strict=True))


@pytest.mark.slow
@needs_trainer
@pytest.mark.parametrize("name", MODELS)
def test_operations_are_those_of_megatron(counted_by_megatron, name):
    common, _, own = MODELS[name]
    found = shape_of(f"{SHARED} {common} {own}").epoch_flops(1, TOKENS, SQUARES)
    assert found == pytest.approx(counted_by_megatron[name], rel=1e-12)


def test_a_mamba_layer_has_the_channels_of_its_heads():
    """Megatron's count takes twice the hidden size, whatever the number of heads."""
    shape = shape_of("--hybrid-layer-pattern M --hidden-size 512 --heads 8 --mamba-num-heads 24")
    channels, groups, state = 24 * 64, 8, 128
    weights = 512 * (2 * channels + 2 * groups * state + 24) + channels * 512
    assert shape.layer("M").linear_flops_per_position == 2 * weights + 7 * channels * state


def test_an_output_gate_is_as_wide_as_the_queries():
    shape = shape_of("--layers 1")
    gated = dataclasses.replace(shape, attention_output_gate=True)
    difference = gated.linear_flops_per_position - shape.linear_flops_per_position
    assert difference == 6 * shape.hidden_size * shape.num_heads * shape.head_channels


def test_recurrent_layers_are_linear_in_the_length():
    """So long documents gain less where attention is replaced, and packing gains the same."""
    dense, hybrid = shape_of("--layers 4"), shape_of("--hybrid-layer-pattern M-G-M-*-")
    assert hybrid.attention_flops_per_square == dense.attention_flops_per_square / 4
    linear = shape_of("--hybrid-layer-pattern M-G-")
    assert linear.attention_flops_per_square == 0
    assert linear.epoch_flops(3, 100, 10**9) == 300 * linear.linear_flops_per_position
    lengths = [np.array([5, 95]), np.array([50, 50])]
    assert len({linear.work_model().work(row) for row in lengths}) == 1
    assert len({hybrid.work_model().work(row) for row in lengths}) == 2


def test_layers_are_counted_without_stage_boundaries():
    assert count_layers("M-|*E|G") == {"M": 1, "-": 1, "*": 1, "E": 1, "G": 1}
    shape = shape_of("--hybrid-layer-pattern M-|*-|MM")
    assert shape.num_layers == 6
    assert shape.name == "6 layers (3 Mamba, 1 attention, 2 MLP) of hidden size 4,096"


def test_every_symbol_has_a_layer():
    shape = shape_of("--layers 1")
    assert len({type(shape.layer(symbol)) for symbol in LAYER_NAMES}) == len(LAYER_NAMES)
    with pytest.raises(ValueError, match="'D' is not in LAYER_NAMES"):
        shape.layer("D")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--hybrid-layer-pattern M/MM", "pattern 'M/MM' has '/', but operations are counted for M"),
        ("--hybrid-layer-pattern MD+", "pattern 'MD+' has 'D+'"),
        ("--hybrid-layer-pattern |", "pattern '|' has no layer"),
        (
            "--hybrid-layer-pattern MM --layers 3",
            "has 3 layers, but its hybrid layer pattern has 2",
        ),
        (
            "--hybrid-layer-pattern M --mamba-head-dim 0",
            "Mamba head size is 0; it must be at least",
        ),
        ("--hybrid-layer-pattern M --mamba-num-heads 0", "Mamba heads is 0"),
        ("--moe-ffn-hidden-size 0", "expert FFN hidden size is 0"),
        ("--moe-shared-expert-intermediate-size -1", "is -1; it must be at least 0"),
        ("--kv-channels 0", "channels of a head is 0"),
    ],
)
def test_impossible_models_are_refused_by_name(flags, message):
    with pytest.raises(InputError) as caught:
        shape_of(flags)
    assert message in str(caught.value)


def test_known_hybrid_models_have_their_number_of_active_parameters():
    """Without input embeddings; recurrences add a little to the products of weights."""
    for name, billions in (("nemotron-h-8b", 7.6), ("nemotron-3-nano", 3.2)):
        counted = KNOWN[name].linear_flops_per_position / 6
        assert counted / 1e9 == pytest.approx(billions, abs=0.1)


def test_known_hybrid_models_have_the_sizes_of_their_authors():
    transformers = pytest.importorskip("transformers")
    shape, authors = KNOWN["qwen3-next"], transformers.Qwen3NextConfig()
    kinds = {"linear_attention": "GE", "full_attention": "*E"}
    assert shape.hybrid_layer_pattern == "".join(map(kinds.get, authors.layer_types))
    for ours, theirs in {
        "hidden_size": "hidden_size",
        "num_heads": "num_attention_heads",
        "num_query_groups": "num_key_value_heads",
        "kv_channels": "head_dim",
        "vocabulary_size": "vocab_size",
        "linear_key_head_dim": "linear_key_head_dim",
        "linear_value_head_dim": "linear_value_head_dim",
        "linear_num_key_heads": "linear_num_key_heads",
        "linear_num_value_heads": "linear_num_value_heads",
        "linear_conv_kernel_dim": "linear_conv_kernel_dim",
        "moe_router_topk": "num_experts_per_tok",
        "moe_ffn_hidden_size": "moe_intermediate_size",
        "moe_shared_expert_intermediate_size": "shared_expert_intermediate_size",
    }.items():
        assert getattr(shape, ours) == getattr(authors, theirs), ours
    shape, authors = KNOWN["nemotron-h-8b"], transformers.NemotronHConfig()
    for ours, theirs in {
        "hidden_size": "hidden_size",
        "ffn_hidden_size": "intermediate_size",
        "num_heads": "num_attention_heads",
        "num_query_groups": "num_key_value_heads",
        "head_channels": "head_dim",
        "vocabulary_size": "vocab_size",
        "mamba_state_dim": "ssm_state_size",
        "mamba_num_heads": "mamba_num_heads",
        "mamba_head_dim": "mamba_head_dim",
        "mamba_num_groups": "n_groups",
    }.items():
        assert getattr(shape, ours) == getattr(authors, theirs), ours
