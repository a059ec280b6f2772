# SPDX-License-Identifier: Apache-2.0
"""Options that give the shape of a model."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace, _ActionsContainer

from megatron_packing.flops.model import LAYER_NAMES, ModelShape, count_layers
from megatron_packing.flops.models import MODELS

_PATTERN = "hybrid_layer_pattern"
# Flags and what they mean, by the field of ModelShape. Those of hybrid models are Megatron's.
_SIZES = {
    "num_layers": ("--layers", "transformer layers"),
    "hidden_size": ("--hidden-size", "hidden size"),
    "ffn_hidden_size": ("--ffn-hidden-size", "ffn hidden size"),
    "num_heads": ("--heads", "attention heads"),
    "num_query_groups": ("--query-groups", "heads of keys and values"),
    "kv_channels": ("--kv-channels", "channels of an attention head"),
    "vocabulary_size": ("--vocabulary-size", "tokens that the output layer tells apart"),
    "mamba_state_dim": ("--mamba-state-dim", "state size of Mamba layers"),
    "mamba_head_dim": ("--mamba-head-dim", "channels of a Mamba head"),
    "mamba_num_groups": ("--mamba-num-groups", "groups of Mamba heads"),
    "mamba_num_heads": ("--mamba-num-heads", "Mamba heads"),
    "linear_key_head_dim": ("--linear-key-head-dim", "channels of a gated delta net's key head"),
    "linear_value_head_dim": (
        "--linear-value-head-dim",
        "channels of a gated delta net's value head",
    ),
    "linear_num_key_heads": ("--linear-num-key-heads", "key heads of a gated delta net"),
    "linear_num_value_heads": ("--linear-num-value-heads", "value heads of a gated delta net"),
    "moe_router_topk": ("--moe-router-topk", "experts that compute a position"),
    "moe_ffn_hidden_size": ("--moe-ffn-hidden-size", "ffn hidden size of an expert"),
    "moe_shared_expert_intermediate_size": (
        "--moe-shared-expert-intermediate-size",
        "ffn hidden size of shared experts",
    ),
}


def add_model_name(group: _ActionsContainer) -> None:
    """Declare the option that names a model alone."""
    group.add_argument(
        "--model",
        choices=MODELS,
        default="8b",
        help="a known model; 8b, 70b and 405b are Llama 3 (default: 8b)",
    )


def add_model_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group(
        "model", "whose floating-point operations the expected speed-up is computed from"
    )
    add_model_name(group)
    symbols = ", ".join(f"{symbol} {name}" for symbol, name in LAYER_NAMES.items())
    group.add_argument(
        "--hybrid-layer-pattern",
        metavar="PATTERN",
        help=f"a symbol for each layer of a hybrid model, as Megatron has them: {symbols}, with | "
        f"between pipeline stages (default: that of --model)",
    )
    for field, (flag, meaning) in _SIZES.items():
        group.add_argument(
            flag,
            dest=field,
            type=int,
            metavar="N",
            help=f"{meaning} (default: that of --model)",
        )
    group.add_argument(
        "--ungated-mlp",
        dest="gated_mlp",
        action="store_const",
        const=False,
        help="MLPs have two matrices, as with squared ReLU (default: as --model)",
    )


def model_of(args: Namespace) -> ModelShape:
    """Return the model named, with the sizes that were given in place of its own.

    Raises:
        InputError: The sizes are impossible.
    """
    given = {field: getattr(args, field) for field in (_PATTERN, *_SIZES, "gated_mlp")}
    given = {field: value for field, value in given.items() if value is not None}
    if not given:
        return MODELS[args.model]
    if _PATTERN in given:
        given.setdefault("num_layers", sum(count_layers(given[_PATTERN]).values()))
    shape = dataclasses.replace(MODELS[args.model], **given)
    return dataclasses.replace(shape, name=_describe(shape))


def _describe(shape: ModelShape) -> str:
    kinds = ""
    if shape.hybrid_layer_pattern:
        counts = shape.layer_counts
        listed = (
            f"{counts[symbol]} {name}" for symbol, name in LAYER_NAMES.items() if symbol in counts
        )
        kinds = f" ({', '.join(listed)})"
    return f"{shape.num_layers} layers{kinds} of hidden size {shape.hidden_size:,}"
