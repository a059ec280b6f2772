# SPDX-License-Identifier: Apache-2.0
"""Builds layer specs of HybridModel that support packed rows.

Megatron has a hybrid stack for Transformer Engine only. The one here has Megatron's local layers
with our core attention and norms, so that ``--transformer-impl local`` can train hybrid models.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.models.hybrid.hybrid_layer_specs import hybrid_stack_spec
from megatron.core.ssm.gated_delta_net import GatedDeltaNet, GatedDeltaNetSubmodules
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.ssm.mamba_mixer import MambaMixer, MambaMixerSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.multi_token_prediction import (
    MultiTokenPredictionBlock,
    MultiTokenPredictionBlockSubmodules,
    MultiTokenPredictionLayer,
    MultiTokenPredictionLayerSubmodules,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import (
    MoETransformerLayer,
    TransformerLayer,
    TransformerLayerSubmodules,
)
from megatron.core.utils import log_single_rank

from megatron_packing.megatron.layer_spec import (
    ReferenceAttention,
    TorchNorm,
    attention_of,
    choose_backend,
    set_packed_parts,
)
from megatron_packing.megatron.packed_rotation import index_rotary_positions

logger = logging.getLogger(__name__)


def packed_hybrid_spec(config: TransformerConfig, backend: str | None = None) -> ModuleSpec:
    """Return the hybrid stack for the backend that ``choose_backend`` picks.

    With Transformer Engine it is Megatron's own. Otherwise it has layers for the symbols ``*``,
    ``-``, ``E``, ``M`` and ``G`` of a layer pattern. Tensors in checkpoints have the names that
    Megatron's local GPT layers have there, so checkpoints of a GPTModel load.

    Raises:
        InputError: As ``choose_backend`` does.
    """
    chosen = choose_backend(config, backend)
    index_rotary_positions()
    log_single_rank(logger, logging.INFO, f"attention backend for packed rows: {chosen}")
    if chosen == "transformer_engine":
        return hybrid_stack_spec
    return local_hybrid_spec(config, attention_of(chosen))


def local_hybrid_spec(config: TransformerConfig, attention: type[ReferenceAttention]) -> ModuleSpec:
    """Return a hybrid stack of Megatron's local layers with a core attention of ours."""

    def parts_of_layer(num_experts: int | None, *, is_latent: bool = False) -> Any:
        layer = get_gpt_layer_local_spec(
            num_experts=num_experts,
            moe_grouped_gemm=config.moe_grouped_gemm,
            qk_layernorm=config.qk_layernorm,
            multi_latent_attention=is_latent,
            normalization=config.normalization,
            qk_l2_norm=config.qk_l2_norm,
        )
        parts = copy.deepcopy(layer.submodules)
        set_packed_parts(parts, config, attention)
        return parts

    dense, experts = parts_of_layer(None), parts_of_layer(config.num_moe_experts)
    more = {}
    if config.multi_latent_attention:  # which training refuses with local layers
        latent = parts_of_layer(None, is_latent=True)
        more["mla_layer"] = ModuleSpec(module=TransformerLayer, submodules=_only_attention(latent))
    return ModuleSpec(
        module=PackedHybridStack,
        submodules=HybridStackSubmodules(
            attention_layer=ModuleSpec(module=TransformerLayer, submodules=_only_attention(dense)),
            mlp_layer=ModuleSpec(module=MLPLayer, submodules=_without_attention(dense)),
            moe_layer=ModuleSpec(
                module=MoETransformerLayer, submodules=_without_attention(experts)
            ),
            mamba_layer=_mamba_layer(),
            gdn_layer=_gated_delta_net_layer(),
            mtp_block_spec=_multi_token_block(),
            **more,
        ),
    )


def _only_attention(layer: Any) -> TransformerLayerSubmodules:
    return TransformerLayerSubmodules(
        input_layernorm=layer.input_layernorm,
        self_attention=layer.self_attention,
        self_attn_bda=layer.self_attn_bda,
        sharded_state_dict_keys_map=layer.sharded_state_dict_keys_map,
    )


def _without_attention(layer: Any) -> TransformerLayerSubmodules:
    return TransformerLayerSubmodules(
        pre_mlp_layernorm=layer.pre_mlp_layernorm,
        mlp=layer.mlp,
        mlp_bda=layer.mlp_bda,
        sharded_state_dict_keys_map=layer.sharded_state_dict_keys_map,
    )


def _mamba_layer() -> ModuleSpec:
    mixer = ModuleSpec(
        module=MambaMixer,
        submodules=MambaMixerSubmodules(in_proj=ColumnParallelLinear, out_proj=RowParallelLinear),
    )
    return ModuleSpec(
        module=MambaLayer,
        submodules=MambaLayerSubmodules(
            norm=TorchNorm,
            mixer=mixer,
            mamba_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map={"norm.": "mixer.in_proj.layer_norm_"},
        ),
    )


def _gated_delta_net_layer() -> ModuleSpec:
    net = ModuleSpec(
        module=GatedDeltaNet,
        submodules=GatedDeltaNetSubmodules(
            in_proj=ColumnParallelLinear, out_norm=TorchNorm, out_proj=RowParallelLinear
        ),
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=TorchNorm,
            self_attention=net,
            self_attn_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map={"input_layernorm.": "self_attention.in_proj.layer_norm_"},
        ),
    )


def _multi_token_block() -> ModuleSpec:
    """Norms and a projection: Megatron builds the layers of each depth from the pattern."""
    layer = ModuleSpec(
        module=MultiTokenPredictionLayer,
        submodules=MultiTokenPredictionLayerSubmodules(
            enorm=TorchNorm,
            hnorm=TorchNorm,
            eh_proj=ColumnParallelLinear,
            mtp_model_layer=None,
            layer_norm=TorchNorm,
        ),
    )
    return ModuleSpec(
        module=MultiTokenPredictionBlock,
        submodules=MultiTokenPredictionBlockSubmodules(layer_specs=[layer]),
    )


class PackedHybridStack(HybridStack):
    """Megatron's hybrid stack with torch's norm after its last layer.

    Megatron's own builds Transformer Engine's norm there, whatever the spec says.
    """

    def __init__(
        self,
        config: TransformerConfig,
        submodules: HybridStackSubmodules,
        *,
        post_process: bool = True,
        post_layer_norm: bool = True,
        **others: Any,
    ) -> None:
        """Take Megatron's arguments."""
        super().__init__(
            config, submodules, post_process=post_process, post_layer_norm=False, **others
        )
        self.post_layer_norm = post_layer_norm
        if post_process and post_layer_norm:
            self.final_norm = TorchNorm(config, config.hidden_size, eps=config.layernorm_epsilon)
