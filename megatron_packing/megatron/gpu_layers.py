# SPDX-License-Identifier: Apache-2.0
"""Knows the layers that a small check cannot run on a CPU."""

from __future__ import annotations

from typing import Any

from megatron.core.ssm import mamba_mixer

from megatron_packing.errors import InputError
from megatron_packing.megatron.layer_pattern import all_symbols, layer_pattern


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
