# SPDX-License-Identifier: Apache-2.0
"""Makes the configuration of a Hugging Face model small: few layers of each kind, small widths."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

_WIDTHS: dict[str, int | float] = {
    # what a token is
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width"), 64),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 128),
    "hidden_size_per_layer_input": 16,
    **dict.fromkeys(("initializer_range", "init_std"), 0.125),  # signals that do not fade
    # attention
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("head_dim", "global_head_dim", "v_head_dim", "index_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "query_pre_attn_scalar"), 16),
    "index_n_heads": 16,  # with few, scores of many tokens are zero, and ties depend on the row
    "attention_hidden_size": 128,  # twice the width of tokens: Zamba
    "attention_head_dim": 32,
    # feed-forward layers
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 96),
    **dict.fromkeys(("block_ff_dim", "intermediate_size_mlp"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    "expert_ffn_hidden_size": 32,
    # recurrent layers
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim", "mamba_d_state"), 16),
    **dict.fromkeys(("ssm_state_size", "state_size"), 16),
    "mamba_d_ssm": 128,
    **dict.fromkeys(("mamba_expand", "expand"), 2),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank", "linear_num_value_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    "linear_num_heads": 4,
    "linear_num_key_heads": 2,
}
"""Small values that fit each other, by the names that configurations have for them: heads times
their size is the width of tokens, and twice that the width of recurrent layers."""

_MOST: dict[str, int] = {
    # shorter than documents, so that what reaches over a boundary shows
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size", "index_topk"), 8),
    **dict.fromkeys(("attention_window_size", "chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "moe_num_experts": 4,
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("num_nextn_predict_layers", "num_mtp_layers", "num_kv_shared_layers"), 0),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 2),
    **dict.fromkeys(("n_mamba_heads", "adapter_rank"), 8),
}
"""What is made smaller only where it is larger."""

_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_INDEX_LISTS = ("mlp_only_layers", "attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids")
"""Lists of the layers that are of some kind."""
_MOST_LAYERS = 12
_WITHOUT = ("dropout", "_pdrop", "jitter", "layerdrop")
"""Parts of the names of what is random in training."""
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")


def shrink(config: Any, least_layers: int = 4) -> Any:
    """Return a small configuration of the same class.

    Args:
        config: A configuration of transformers, for text alone.
        least_layers: More layers are kept where these do not have all kinds of layers.

    Raises:
        Exception: As the class raises them where the small values do not fit each other.
    """
    known = inspect.signature(type(config)).parameters
    values = {name: value for name, value in config.to_dict().items() if name in known}
    values |= _small_values(values)
    for name, value in values.items():
        if _is_number(value) and any(part in name for part in _WITHOUT):
            values[name] = 0.0
    values |= {name: None for name in _TOKENS if name in known}
    return type(config)(**_cut_layers(config, values, least_layers))


def _small_values(values: Mapping[str, Any]) -> dict[str, Any]:
    given = {name for name, value in values.items() if _is_number(value)}
    small: dict[str, Any] = {name: width for name, width in _WIDTHS.items() if name in given}
    small |= {name: min(values[name], most) for name, most in _MOST.items() if name in given}
    queries = values.get("num_attention_heads")
    for name in ("num_key_value_heads", "num_global_key_value_heads"):
        if name in given:  # as many as query heads, half of them, or one
            small[name] = 4 if values[name] == queries else min(values[name], 2)
    if queries is None and "expand" in values and "num_heads" in small:  # Mamba-2 alone
        small["num_heads"] = 8
    return small


def num_layers(config: Any) -> int:
    """Return how many layers a configuration has.

    Raises:
        ValueError: It does not say.
    """
    for name in _LAYER_COUNTS:
        if isinstance(count := getattr(config, name, None), int):
            return count
    raise ValueError("the configuration has no number of layers")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cut_layers(config: Any, values: dict[str, Any], least_layers: int) -> dict[str, Any]:
    """Keep the first layers that have all kinds between them."""
    was = num_layers(config)
    by_layer = {
        name: value
        for name, value in _lists_of(config, values).items()
        if len(value) == was and all(isinstance(one, str | int | float) for one in value)
    }
    count = max(min(was, least_layers), _layers_with_all_kinds(by_layer, was))
    count = min(count, _MOST_LAYERS)
    cut = dict(values)
    cut |= {name: count for name in _LAYER_COUNTS if name in values}
    for name in by_layer:
        if name in values:
            cut[name] = values[name][:count]
    for name in _INDEX_LISTS:
        if isinstance(values.get(name), list):
            cut[name] = [layer for layer in values[name] if layer < count]
    if isinstance(of_layers := values.get("per_layer_config"), dict):
        cut["per_layer_config"] = {
            layer: own | _small_values(own)
            for layer, own in of_layers.items()
            if int(layer) < count
        }
    return cut


def _lists_of(config: Any, values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the lists of a configuration, also those of kinds of layers that it computes."""
    computed = ("layer_types", "layers_block_type", "mlp_layer_types")
    found = dict(values) | {name: getattr(config, name, None) for name in computed}
    return {name: value for name, value in found.items() if isinstance(value, list) and value}


def _layers_with_all_kinds(by_layer: Mapping[str, list[Any]], num_layers: int) -> int:
    """Return how many first layers have each kind that any layer has, of each list of kinds."""
    kinds = [value for value in by_layer.values() if isinstance(value[0], str)]
    for count in range(1, num_layers + 1):
        if all(set(value[:count]) == set(value) for value in kinds):
            return count
    return num_layers
