"""A layer spec whose attention takes packed rows without Transformer Engine.

Megatron's own Transformer Engine spec takes packed rows as it is; use this one with
``--transformer-impl local``, where Megatron's attention refuses them.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from torch import Tensor

from megatron_packing.errors import InputError
from megatron_packing.thd.attention import causal_attention, packed_attention


def local_layer_spec(
    config: TransformerConfig, vp_stage: int | None = None
) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage: Megatron's local ones with an attention for packed rows.

    Raises:
        InputError: The model has a part that this attention does not compute.
    """
    refused = {
        "attention dropout": config.attention_dropout,
        "a sliding window": config.window_size,
        "multi-latent attention": config.multi_latent_attention,
        "context parallelism": config.context_parallel_size > 1,
    }
    for part, used in refused.items():
        if used:
            raise InputError(
                f"the local attention over packed rows does not do {part}; use Transformer Engine "
                f"(--transformer-impl transformer_engine) or leave it out"
            )
    spec = copy.deepcopy(
        get_gpt_layer_local_spec(
            num_experts=config.num_moe_experts,
            moe_grouped_gemm=config.moe_grouped_gemm,
            qk_layernorm=config.qk_layernorm,
            normalization=config.normalization,
        )
    )
    spec.submodules.self_attention.submodules.core_attention = PackedAttention
    spec.submodules.input_layernorm = TorchNorm
    spec.submodules.pre_mlp_layernorm = TorchNorm
    num_layers = get_num_layers_to_build(config, vp_stage)
    return TransformerBlockSubmodules(layer_specs=[spec] * num_layers, layer_norm=TorchNorm)


class PackedAttention(MegatronModule):
    """Megatron's core attention with ``packed_seq_params``; see ``thd.attention``."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        """Take Megatron's arguments; what this attention has no use for is ignored."""
        del attn_mask_type, attention_type, attention_dropout, cp_comm_type, pg_collection
        super().__init__(config=config)
        self.softmax_scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        if config.apply_query_key_layer_scaling:
            self.softmax_scale /= max(1, layer_number)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """Attend.

        Packed: ``(positions, heads, dim)`` to ``(positions, heads * dim)``. Otherwise causal:
        ``(positions, batch, heads, dim)`` to ``(positions, batch, heads * dim)``.
        """
        del attention_mask, attn_mask_type, attention_bias
        if packed_seq_params is not None:
            output = packed_attention(
                query, key, value, packed_seq_params.cu_seqlens_q, self.softmax_scale
            )
            return output.reshape(output.shape[0], -1)
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        output = causal_attention(query, key, value, self.softmax_scale).permute(2, 0, 1, 3)
        return output.reshape(*output.shape[:2], -1)


class TorchNorm:
    """torch's LayerNorm or RMSNorm, fit for sequence parallelism.

    Its parameters carry the mark by which Megatron sums their gradients over the tensor-parallel
    group; Megatron's wrapper of torch's norms refuses sequence parallelism for want of it.
    """

    def __new__(
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> torch.nn.Module:
        norms: dict[str, type[torch.nn.Module]] = {
            "LayerNorm": torch.nn.LayerNorm,
            "RMSNorm": torch.nn.RMSNorm,
        }
        if config.normalization not in norms:
            raise InputError(f"--normalization is {config.normalization}; use {', '.join(norms)}")
        norm = norms[config.normalization](hidden_size, eps=eps)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel
        return norm
