# SPDX-License-Identifier: Apache-2.0
"""What Transformer Engine's kernels for packed rows under context parallelism compute.

Rows of a tensor are the positions that a rank holds; ``cu_seqlens`` cuts them into segments, each
of which consists of two chunks (halves) of equal length.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def _half(cu_seqlens: Tensor, half: int) -> Tensor:
    """Return the positions in the first or second half of every segment."""
    offsets = cu_seqlens.tolist()
    parts = []
    for start, stop in pairwise(offsets):
        middle = (start + stop) // 2
        parts.append(torch.arange(start, middle) if half == 0 else torch.arange(middle, stop))
    return torch.cat(parts)


def thd_get_partitioned_indices(cu_seqlens, total, size, rank):
    """Return the positions of a row that a rank holds."""
    del total
    offsets = cu_seqlens.tolist()
    parts = []
    for start, stop in pairwise(offsets):
        chunk = (stop - start) // (2 * size)
        for number in (rank, 2 * size - 1 - rank):
            parts.append(torch.arange(start + number * chunk, start + (number + 1) * chunk))
    return torch.cat(parts).to(torch.int32)


def _positions_in_rank_order(cu_seqlens: Tensor, size: int) -> Tensor:
    ranks = [thd_get_partitioned_indices(cu_seqlens, None, size, rank) for rank in range(size)]
    return torch.cat(ranks).long()


def thd_cp_rank_order_to_sequence_order(x, cu_seqlens, size, total):
    """Put the gathered positions of all ranks into the row's order."""
    del total
    row = torch.empty_like(x)
    row[_positions_in_rank_order(cu_seqlens, size)] = x
    return row


def thd_sequence_order_to_cp_rank_order(x, cu_seqlens, size, total):
    """Put a row's positions into the order of the ranks that hold them."""
    del total
    return x[_positions_in_rank_order(cu_seqlens, size)].contiguous()


def thd_read_half_tensor(tensor, cu_seqlens, half):
    """Return one half of every segment of ``(t, h, d)`` or ``(2, t, h, d)``."""
    return tensor.index_select(tensor.dim() - 3, _half(cu_seqlens, half))


def thd_second_half_lse_correction(lse, step, cu_seqlens, is_packed):
    """Add a step's attention over the second halves to the sums of exponentials, in place."""
    assert is_packed
    rows = _half(cu_seqlens, 1)
    lse[:, rows] = torch.logaddexp(lse[:, rows], step[:, : len(rows)].to(lse.dtype))


def thd_read_second_half_lse(lse, cu_seqlens, is_packed, length):
    """Return the sums of the second halves, as ``(heads, length)``."""
    assert is_packed
    rows = _half(cu_seqlens, 1)
    out = lse.new_zeros(lse.shape[0], length)
    out[:, : len(rows)] = lse[:, rows]
    return out


def thd_out_correction(out, step, *rest):
    """Add a step's output in proportion to its sum of exponentials, in place.

    Newer releases also pass the sums before the step: their ``out`` is normalized at every step.
    """
    *before, lse, step_lse, cu_seqlens, only_second_half, is_packed = rest
    assert is_packed
    rows = _half(cu_seqlens, 1) if only_second_half else torch.arange(int(cu_seqlens[-1]))

    def share(part: Tensor) -> Tensor:
        factors = torch.exp(part.to(lse.dtype) - lse[:, rows])
        return torch.nan_to_num(factors).t()[..., None].to(out.dtype)

    if before:
        out[rows] = out[rows] * share(before[0][:, rows])
    out[rows] = out[rows] + step[: len(rows)] * share(step_lse[:, : len(rows)])


def thd_grad_correction(gradient, step, cu_seqlens, first_half, second_half):
    """Copy or add a step's gradient to the halves of every segment, or set a half to zero."""
    positions = gradient.dim() - 3
    for half, action in enumerate((first_half, second_half)):
        if action == "none":
            continue
        rows = _half(cu_seqlens, half)
        where = (slice(None),) * positions + (rows,)
        if action == "zero":
            gradient[where] = 0
            continue
        if step.shape[positions] == gradient.shape[positions]:
            source = step.index_select(positions, rows)
        else:  # it holds only this half
            source = step.narrow(positions, 0, len(rows))
        gradient[where] = source if action == "copy" else gradient[where] + source


def thd_copy_valid_tokens_from_per_split_to_rank_local(out, step, padded, offsets):
    """Copy the positions that a step computed: the first ones of each padded range."""
    starts = padded[:-1].tolist()
    for start, length in zip(starts, torch.diff(offsets).tolist(), strict=True):
        out[start : start + length] = step[start : start + length]


KERNELS = (
    thd_copy_valid_tokens_from_per_split_to_rank_local,
    thd_get_partitioned_indices,
    thd_cp_rank_order_to_sequence_order,
    thd_sequence_order_to_cp_rank_order,
    thd_read_half_tensor,
    thd_second_half_lse_correction,
    thd_read_second_half_lse,
    thd_out_correction,
    thd_grad_correction,
)
