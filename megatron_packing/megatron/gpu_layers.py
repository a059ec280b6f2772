# SPDX-License-Identifier: Apache-2.0
"""Knows what a small check cannot run on a CPU: kernels, which others replace, and layers."""

from __future__ import annotations

from typing import Any

from megatron.core.ssm import mamba_mixer

from megatron_packing.errors import InputError
from megatron_packing.megatron.layer_pattern import all_symbols, layer_pattern

ON_CPU: dict[str, Any] = {
    "transformer_impl": "local",
    "use_cpu_initialization": True,
    **dict.fromkeys(("bf16", "fp16", "fp32_residual_connection", "fp8_output_proj"), False),
    **dict.fromkeys(("fp8", "fp4"), None),
    **dict.fromkeys(("apply_rope_fusion", "gradient_accumulation_fusion"), False),
    **dict.fromkeys(("masked_softmax_fusion", "bias_dropout_fusion"), False),
    **dict.fromkeys(("moe_grouped_gemm", "moe_permute_fusion", "moe_router_fusion"), False),
    **dict.fromkeys(("cross_entropy_loss_fusion", "qk_clip"), False),
    # Only for what the weights of norms begin with, which is the same.
    **dict.fromkeys(("layernorm_zero_centered_gamma", "memory_efficient_layer_norm"), False),
}
"""Settings of Megatron's arguments and of Bridge's providers that need kernels for GPUs, and what
is taken in their place."""


def check_gpu_layers(settings: Any) -> None:
    """Refuse layers that have kernels for GPUs alone.

    Args:
        settings: Megatron's arguments, or a model provider of Megatron-Bridge.

    Raises:
        InputError: Names the layers.
    """
    symbols = all_symbols(layer_pattern(settings) or "")
    variant = getattr(settings, "experimental_attention_variant", None)
    if "M" in symbols and not mamba_mixer.HAVE_MAMBA_SSM:
        what = "Mamba layers (M in the pattern)"
    elif "G" in symbols or variant == "gated_delta_net":
        what = "gated delta nets"
    elif "D" in symbols or variant is not None:
        what = f"layers of the attention variant {variant or 'dsa'}"
    else:
        return
    raise InputError(
        f"the model has {what}, whose kernels need a GPU: run check-model where there is one, or "
        f"start the run with --packing-check"
    )
