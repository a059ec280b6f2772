# SPDX-License-Identifier: Apache-2.0
"""Numbers the segments of a packed row for Mamba layers."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_index(cu_seqlens: Tensor, positions: int) -> Tensor:
    """Return the number of the segment of each position: ``seq_idx`` of ``PackedSeqParams``.

    Mamba's kernels reset the convolution and the state wherever this number changes. Without it
    they carry both through all documents of the row. Only megatron-core up to 0.16 computes it from
    ``cu_seqlens`` itself.

    The values are those of ``PackedSeqParams.__post_init__`` (``packed_seq_params.py`` of
    megatron-core 0.17 and later), which computes them if it is given ``total_tokens``. It uses
    ``repeat_interleave``, for which the host waits for the GPU; this function does not wait.

    Args:
        cu_seqlens: int32 or int64, ``(width,)``: offsets of segments from 0; repeated offsets are
            empty segments. Positions after the last offset are a segment of their own.
        positions: Positions of the whole row, also where context-parallel ranks share it: Mamba
            layers exchange their parts, so that each rank computes some heads of all positions.

    Returns:
        int32, ``(1, positions)``, on the device of ``cu_seqlens``.
    """
    row = torch.arange(positions, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    return torch.bucketize(row, cu_seqlens[1:], right=True, out_int32=True).unsqueeze(0)
