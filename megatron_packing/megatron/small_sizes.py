# SPDX-License-Identifier: Apache-2.0
"""Makes the sizes of a model small, and keeps what chooses the kinds of its layers.

Sizes have the names of ``TransformerConfig``, which those of flags and of Bridge's providers are.
"""

from __future__ import annotations

from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.megatron.layer_pattern import layer_pattern, layer_symbols

VOCABULARY = 512
LEAST_LAYERS = 4
_WINDOW = 8
"""Positions that a sliding window reaches back: fewer than most documents of a check have."""

_SIZES: dict[str, int | float] = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "ffn_hidden_size": 512,
    "init_method_std": 0.125,  # signals that do not fade
    # Experts.
    "moe_ffn_hidden_size": 128,
    "moe_shared_expert_intermediate_size": 128,
    "moe_latent_size": 64,
    "moe_router_num_groups": 2,
    "moe_router_group_topk": 1,
    # Multi-latent attention. The channels of its heads stay, as kernels depend on them.
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    # Recurrent layers.
    "mamba_num_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
"""What is set where the model has it."""

_MOST: dict[str, int] = {
    **dict.fromkeys(("num_experts", "num_moe_experts"), 8),
    "moe_router_topk": 2,
    "mamba_num_groups": 2,
    "mamba_state_dim": 32,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 32),
    "recompute_num_layers": 1,
}
"""What is made smaller where it is larger."""

_BY_LAYER = ("moe_layer_freq", "window_attn_skip_freq", "no_rope_freq", "linear_attention_freq")
"""What says the kind of each layer: a list, or every how many layers the kind changes."""


def small_sizes(settings: Any) -> dict[str, Any]:
    """Return the settings that make a model small, by name.

    Its first layers are kept, as many as have all kinds of layers between them and at least
    ``LEAST_LAYERS``, so that layers have the numbers that they have in the whole model.

    Args:
        settings: Megatron's arguments, or a model provider of Megatron-Bridge.

    Raises:
        InputError: A size is below 1.
    """
    for name in ("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size"):
        size = _number(settings, name)
        if size is not None and size < 1:
            raise InputError(f"{name.replace('_', ' ')} is {size}; give at least 1")
    small: dict[str, Any] = {
        name: size for name, size in _SIZES.items() if _number(settings, name) is not None
    }
    for name, most in _MOST.items():
        if (value := _number(settings, name)) is not None:
            small[name] = min(value, most)
    heads = _number(settings, "num_attention_heads")
    hidden = _number(settings, "hidden_size")
    if heads and hidden and not _number(settings, "kv_channels"):
        small["kv_channels"] = hidden // heads
    groups = _number(settings, "num_query_groups")
    if groups is not None:  # as many as heads, one, or some
        small["num_query_groups"] = 4 if groups == heads else min(groups, 2)
    window = getattr(settings, "window_size", None)
    if window is not None and window[0] > _WINDOW:
        small["window_size"] = (_WINDOW, *window[1:])
    return small | _first_layers(settings)


def _number(settings: Any, name: str) -> Any:
    value = getattr(settings, name, None)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _first_layers(settings: Any) -> dict[str, Any]:
    if pattern := layer_pattern(settings):
        symbols = layer_symbols(pattern)
        count = _with_all_kinds(list(symbols))
        cut = symbols[:count] + pattern[len(pattern.split("/")[0]) :]
        names = ("hybrid_layer_pattern", "hybrid_override_pattern")
        return {name: cut for name in names if getattr(settings, name, None)} | {
            "num_layers": count
        }
    num_layers = _number(settings, "num_layers") or 0
    frequencies = {name: getattr(settings, name, None) for name in _BY_LAYER}
    kinds = [
        tuple(_kind(frequency, layer) for frequency in frequencies.values())
        for layer in range(num_layers)
    ]
    count = _with_all_kinds(kinds)
    return {"num_layers": count} | {
        name: frequency[:count]
        for name, frequency in frequencies.items()
        if isinstance(frequency, list)
    }


def _kind(frequency: Any, layer: int) -> Any:
    """Return the kind of a layer; those that change every few layers differ at both ends."""
    if isinstance(frequency, list):
        return frequency[layer] if layer < len(frequency) else None
    if isinstance(frequency, int) and frequency > 1:
        return layer % frequency == 0, layer % frequency == frequency - 1
    return None


def _with_all_kinds(kinds: list[Any]) -> int:
    """Return how many first layers have all kinds, at least ``LEAST_LAYERS`` of as many."""
    last_new = max((kinds.index(kind) + 1 for kind in set(kinds)), default=0)
    return min(max(last_new, LEAST_LAYERS), len(kinds))
