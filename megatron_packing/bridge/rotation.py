# SPDX-License-Identifier: Apache-2.0
"""Whether the rotary embeddings of a recipe can be fused; most recipes leave them unfused."""

from __future__ import annotations

import copy
from typing import Any

import megatron_packing.needs.megatron_bridge  # noqa: F401

from megatron.bridge.utils.fusions import validate_rope_fusion_compatibility
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.transformer import MLATransformerConfig, TransformerConfig

from megatron_packing.megatron.attention_limits import attention_problems
from megatron_packing.megatron.packed_rotation import describe_rotation

_FUSION = "apply_rope_fusion"


def why_not_fused(model: Any) -> str | None:
    """Return why a model's rotary embeddings must stay unfused; None if fused ones train alike.

    Bridge's own rule counts, and what Megatron's fused kernel of packed rows leaves out.

    Args:
        model: ``cfg.model``.
    """
    # The class of such a model leaves multi_latent_attention to the code that makes its settings.
    if isinstance(model, MLATransformerConfig) or getattr(model, "multi_latent_attention", False):
        return "Megatron's fused kernel for multi-latent attention is experimental"
    if getattr(model, "transformer_impl", None) != "transformer_engine":
        return "the layers are not Transformer Engine's"
    if rope_utils.fused_apply_rotary_pos_emb_thd is None:
        return "Transformer Engine, which has the kernel, is not installed"
    chosen_by = next((cls for cls in type(model).__mro__ if _FUSION in vars(cls)), None)
    if chosen_by is not TransformerConfig and not getattr(chosen_by, _FUSION, False):
        return f"{getattr(chosen_by, '__name__', 'the model')} says so"
    if getattr(model, "yarn_rotary_scaling_factor", None) is not None:
        return "Megatron's fused kernel for packed rows does not scale as YaRN does"
    if (kind := getattr(model, "position_embedding_type", None)) != "rope":
        return f"Megatron-Bridge does not fuse them for position_embedding_type {kind}"
    fused = copy.copy(model)
    fused.apply_rope_fusion = True
    if not validate_rope_fusion_compatibility(fused):
        return "Megatron-Bridge does not fuse them for this model"
    for problem in attention_problems(fused, lambda name: f"cfg.model.{name}"):
        if _FUSION in problem:
            return problem
    return None


def describe_recipe_rotation(model: Any) -> str | None:
    """Say which rotary embedding of packed rows runs, and why it is not fused, if it is not."""
    line = describe_rotation(model)
    if line is None or getattr(model, _FUSION, False):
        return line
    return f"{line} ({why_not_fused(model) or f'cfg.model.{_FUSION} is False'})"
