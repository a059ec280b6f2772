# SPDX-License-Identifier: Apache-2.0
"""Sizes of heads that cuDNN computes wrongly over packed rows, or that nobody compared."""

from __future__ import annotations

from collections.abc import Callable

import torch

from megatron_packing.errors import InputError
from megatron_packing.megatron.attention_question import cudnn_release

_LAST_WITH_WRONG_HEADS_OF_256 = (9, 19)


def check_channels(channels: tuple[int, int], name_of: Callable[[str], str]) -> str | None:
    """Refuse heads that cuDNN's attention computes wrongly over packed rows on this GPU.

    On an H100, heads of 256 channels had a relative error of 0.7 against float64, and heads of 64
    and 128, and of 192 with values of 128, one of 0.003 (docs/gpu.md). torch's package of cuDNN was
    9.19; the one that ran was most likely 9.14. So heads of 256 are refused up to 9.19.

    Args:
        channels: Of a query or key head, and of a value head.
        name_of: Returns how users write a setting.

    Returns:
        A warning about other heads that nobody compared; None where there is nothing to say.

    Raises:
        InputError: The attention is known to be wrong.
    """
    if max(channels) <= 128 or channels == (192, 128):
        return None
    release = cudnn_release()
    cudnn = f"cuDNN {release[0]}.{release[1]}"
    said = " and ".join(str(number) for number in dict.fromkeys(channels))
    is_hopper = torch.cuda.get_device_capability()[0] == 9
    if max(channels) == 256 and release <= _LAST_WITH_WRONG_HEADS_OF_256 and is_hopper:
        raise InputError(
            f"attention heads have {said} channels, but {cudnn}, which Transformer Engine uses, "
            f"computes wrong values for them over packed rows on this kind of GPU (docs/gpu.md): "
            f"install flash-attn 2 and set {name_of('attention_backend')} to flash, or use a later "
            f"cuDNN and compare it with benchmarks/gpu/measure.py first"
        )
    return (
        f"warning: heads of {said} channels over packed rows were not compared with float64 for "
        f"{cudnn} and this GPU; benchmarks/gpu/measure.py compares them"
    )
