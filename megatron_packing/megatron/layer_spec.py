# SPDX-License-Identifier: Apache-2.0
"""Builds layer specs of GPTModel whose attention supports packed rows."""

from __future__ import annotations

import copy
import logging
import math
from importlib.util import find_spec
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.multi_latent_attention import MLASelfAttentionSubmodules
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.utils import log_single_rank
from torch import Tensor

from megatron_packing.errors import InputError
from megatron_packing.megatron.attention_limits import attention_problems
from megatron_packing.megatron.flags import flag_of
from megatron_packing.megatron.head_sizes import check_channels
from megatron_packing.megatron.packed_rotation import index_rotary_positions
from megatron_packing.thd.attention import (
    BACKENDS,
    Backend,
    causal_attention,
    packed_attention,
    takes_scale_and_window,
    varlen_attention,
)

logger = logging.getLogger(__name__)


def choose_backend(config: TransformerConfig, told: str | None = None) -> Backend:
    """Choose the attention backend for packed rows.

    The default is Transformer Engine if ``--transformer-impl`` says so, which is Megatron's
    default. Otherwise it is torch's variable-length kernels on a GPU in half precision, and the
    reference elsewhere.

    Args:
        config: The model's config.
        told: One of ``BACKENDS``; None to choose by config and machine.

    Raises:
        InputError: The backend cannot run here, or it does not support a feature of the model.
    """
    backend: Backend
    if told is None:
        if config.transformer_impl == "transformer_engine":
            backend = "transformer_engine"
        else:
            backend = "reference" if _why_not_varlen(config) else "varlen"
    elif told in BACKENDS:
        backend = told
    else:
        raise InputError(f"the attention backend is {told!r}; use one of {', '.join(BACKENDS)}")
    config.packed_rows_attention = backend  # without it forward_step refuses the model
    if backend == "transformer_engine":
        if config.transformer_impl != "transformer_engine":
            raise InputError(
                f"--packing-attention-backend is transformer_engine, but --transformer-impl is "
                f"{config.transformer_impl}: give --transformer-impl transformer_engine"
            )
        if find_spec("transformer_engine") is None:
            raise InputError(
                "Transformer Engine is not installed: install it, or give --transformer-impl local"
            )
        for problem in attention_problems(config, flag_of):
            raise InputError(problem)
        may_be_cudnn = config.attention_backend in (AttnBackend.auto, AttnBackend.fused)
        if torch.cuda.is_available() and may_be_cudnn and not config.multi_latent_attention:
            check_channels((config.kv_channels, config.kv_channels), flag_of)
        return backend
    if config.transformer_impl != "local":
        raise InputError(
            f"--packing-attention-backend is {backend}, but --transformer-impl is "
            f"{config.transformer_impl}: give --transformer-impl local"
        )
    if backend == "varlen" and (why_not := _why_not_varlen(config)):
        raise InputError(f"--packing-attention-backend is varlen, but {why_not}: leave it out")
    unsupported = {
        "attention dropout": config.attention_dropout,
        "a sliding window": config.window_size,
        "multi-latent attention": config.multi_latent_attention,
        "a softmax type other than vanilla": config.softmax_type != "vanilla",
        "zero-centered norm weights (--apply-layernorm-1p)": (config.layernorm_zero_centered_gamma),
        "memory-efficient norms": config.memory_efficient_layer_norm,
        "FP8 or FP4": config.fp8 or config.fp4,
        "QK clipping (--qk-clip)": config.qk_clip,
        "logging of attention logits (--log-max-attention-logit)": config.log_max_attention_logit,
        "Kitchen layers": config.use_kitchen,
        "attention variants (--experimental-attention-variant)": (
            config.experimental_attention_variant
        ),
    }
    for feature, used in unsupported.items():
        if used:
            raise InputError(
                f"the {backend} attention over packed rows does not support {feature}; use "
                f"Transformer Engine (--transformer-impl transformer_engine), or leave it out"
            )
    return backend


def packed_layer_spec(
    config: TransformerConfig, vp_stage: int | None = None, backend: str | None = None
) -> TransformerBlockSubmodules:
    """Return the layer specs of this pipeline stage for the backend that ``choose_backend`` picks.

    With Transformer Engine they are Megatron's own specs. Otherwise they are Megatron's local specs
    with our core attention, and with norms that support sequence parallelism.

    Raises:
        InputError: As ``choose_backend`` does.
    """
    chosen = choose_backend(config, backend)
    index_rotary_positions()
    log_single_rank(logger, logging.INFO, f"attention backend for packed rows: {chosen}")
    if chosen == "transformer_engine":
        return _block_spec(config, vp_stage, use_transformer_engine=True)
    return local_layer_spec(config, vp_stage, attention_of(chosen))


def local_layer_spec(
    config: TransformerConfig, vp_stage: int | None, attention: type[ReferenceAttention]
) -> TransformerBlockSubmodules:
    """Return Megatron's local layer specs of a pipeline stage with a core attention of ours."""
    block = copy.deepcopy(_block_spec(config, vp_stage, use_transformer_engine=False))
    for layer in block.layer_specs:
        set_packed_parts(layer.submodules, config, attention)
    block.layer_norm = TorchNorm
    return block


def packed_multi_token_spec(
    config: TransformerConfig, vp_stage: int | None = None, backend: str | None = None
) -> Any:
    """Return the specs of the layers of multi-token prediction, for GPTModel's ``mtp_block_spec``.

    Each has a transformer layer like the decoder's last one; see ``packed_layer_spec``.

    Returns:
        Megatron's ``MultiTokenPredictionBlockSubmodules``; None where the stage has no such layers.

    Raises:
        InputError: As ``choose_backend`` does.
    """
    chosen = choose_backend(config, backend)
    attention = None if chosen == "transformer_engine" else attention_of(chosen)
    return multi_token_spec(config, vp_stage, attention)


def multi_token_spec(
    config: TransformerConfig, vp_stage: int | None, attention: type[ReferenceAttention] | None
) -> Any:
    """Return the same with a core attention of ours; None: with Transformer Engine's layers."""
    # Only models with such layers need them.
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_decoder_layer_specs,
        get_gpt_mtp_block_spec,
    )

    is_te = attention is None
    layer = get_gpt_decoder_layer_specs(
        config,
        use_transformer_engine=is_te,
        normalization=config.normalization,
        qk_l2_norm=config.qk_l2_norm,
        vp_stage=vp_stage,
    )[-1]
    if attention is not None:
        layer = copy.deepcopy(layer)
        set_packed_parts(layer.submodules, config, attention)
    block = get_gpt_mtp_block_spec(config, layer, use_transformer_engine=is_te, vp_stage=vp_stage)
    if block is not None and not is_te:
        for each in block.layer_specs:
            parts = each.submodules
            parts.enorm = parts.hnorm = parts.layer_norm = TorchNorm
    return block


def _block_spec(
    config: TransformerConfig, vp_stage: int | None, *, use_transformer_engine: bool
) -> TransformerBlockSubmodules:
    return get_gpt_decoder_block_spec(
        config,
        use_transformer_engine=use_transformer_engine,
        normalization=config.normalization,
        qk_l2_norm=config.qk_l2_norm,
        vp_stage=vp_stage,
    )


def attention_of(backend: Backend) -> type[ReferenceAttention]:
    """Return the core attention of local layers."""
    return VarlenAttention if backend == "varlen" else ReferenceAttention


def set_packed_parts(
    layer: Any, config: TransformerConfig, attention: type[ReferenceAttention]
) -> None:
    """Give the submodules of one of Megatron's local layers our core attention and our norms."""
    parts = layer.self_attention.submodules
    parts.core_attention = attention
    if config.qk_layernorm and not config.qk_l2_norm:
        parts.q_layernorm = TorchNorm
        if isinstance(parts, MLASelfAttentionSubmodules):
            parts.kv_layernorm = TorchNorm
        else:
            parts.k_layernorm = TorchNorm
    layer.input_layernorm = layer.pre_mlp_layernorm = TorchNorm


def _why_not_varlen(config: TransformerConfig) -> str | None:
    # is_available() alone does not do: cuda_stand_ins replaces it.
    if not torch.cuda.is_available() or torch.empty(0, device="cuda").device.type != "cuda":
        return "there is no GPU"
    if config.params_dtype not in (torch.float16, torch.bfloat16):
        return f"the model is in {config.params_dtype}, not --bf16 or --fp16"
    if config.deterministic_mode:
        return "its gradients are not deterministic (--deterministic-mode)"
    found = find_spec("torch.nn.attention.varlen") is not None
    if not found or not takes_scale_and_window():
        return f"torch {torch.__version__} lacks a torch.nn.attention.varlen with scale and window"
    return None


class ReferenceAttention(MegatronModule):
    """A core attention for Megatron that supports ``packed_seq_params``; see ``thd.attention``."""

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
        """Take Megatron's arguments; those that this attention does not need are ignored."""
        del layer_number, attn_mask_type, attention_type, attention_dropout, cp_comm_type
        super().__init__(config=config)
        # --apply-query-key-layer-scaling only reorders factors to avoid overflow in half precision.
        self.softmax_scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        if pg_collection is None:
            pg_collection = ProcessGroupCollection.use_mpu_process_groups(required_pgs=["cp"])
        self.group = pg_collection.cp

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
        """Compute attention.

        Packed rows: ``(positions, heads, dim)`` to ``(positions, heads * dim)``. Otherwise causal
        attention: ``(positions, batch, heads, dim)`` to ``(positions, batch, heads * dim)``.
        """
        del attention_mask, attn_mask_type, attention_bias
        if packed_seq_params is not None:
            output = self.attend(query, key, value, packed_seq_params)
            return output.reshape(output.shape[0], -1)
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        output = causal_attention(query, key, value, self.softmax_scale).permute(2, 0, 1, 3)
        return output.reshape(*output.shape[:2], -1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSeqParams) -> Tensor:
        """Compute attention within each segment of a row."""
        return packed_attention(
            query, key, value, packed.cu_seqlens_q, self.softmax_scale, self.group
        )


class VarlenAttention(ReferenceAttention):
    """The same attention, computed by torch's fused kernels."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSeqParams) -> Tensor:
        """Compute attention within each segment of a row."""
        return varlen_attention(
            query,
            key,
            value,
            packed.cu_seqlens_q,
            self.softmax_scale,
            self.group,
            max_seqlen=packed.max_seqlen_q,
        )


class TorchNorm:
    """torch's LayerNorm or RMSNorm with support for sequence parallelism.

    Its parameters have the attribute ``sequence_parallel``, which makes Megatron sum their
    gradients over the tensor-parallel group. Megatron's own wrapper of torch's norms does not set
    it and refuses sequence parallelism.
    """

    def __new__(
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> torch.nn.Module:
        norms: dict[str, type[torch.nn.Module]] = {
            "LayerNorm": torch.nn.LayerNorm,
            "RMSNorm": torch.nn.RMSNorm,
        }
        if config.normalization not in norms:
            raise InputError(f"--normalization is {config.normalization}; use {' or '.join(norms)}")
        norm = norms[config.normalization](hidden_size, eps=eps)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel
        return norm
