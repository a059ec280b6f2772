# SPDX-License-Identifier: Apache-2.0
"""Shards a packed row over context-parallel ranks.

Every segment is cut into ``2 * size`` chunks of equal length. Rank r holds chunks r and
``2 * size - 1 - r``, so causal attention is the same work on every rank. This matches Transformer
Engine's ``thd_get_partitioned_indices`` (transformer_engine/common/fused_attn/context_parallel.cu)
but works on any device and without Transformer Engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


def partition_indices(cu_seqlens: Tensor, size: int, rank: int) -> Tensor:
    """Return the positions of a row that one rank holds, in its order.

    Args:
        cu_seqlens: Integers ``(num_segments + 1,)`` from 0 to the positions of the row.
        size: Ranks that share the row.
        rank: From 0 to ``size - 1``.

    Returns:
        int64, ``(positions / size,)``.

    Raises:
        ValueError: A segment's length is not a multiple of ``2 * size``.
    """
    if size == 1:
        return torch.arange(int(cu_seqlens[-1]), device=cu_seqlens.device)
    offsets = cu_seqlens.long()
    check_divisible(offsets, size)
    held = torch.arange(int(offsets[-1]) // size, device=offsets.device)
    local = offsets // size  # segment starts among the positions of one rank
    segment = torch.bucketize(held, local[1:], right=True)
    start = offsets[segment]
    within = held - local[segment]
    chunk = (offsets[segment + 1] - start) // (2 * size)
    second = within >= chunk
    return start + within + torch.where(second, 2 * (size - 1) - rank, rank) * chunk


def check_divisible(cu_seqlens: Tensor, size: int) -> None:
    """Raise ValueError if a segment cannot be cut into ``2 * size`` equal chunks."""
    lengths = torch.diff(cu_seqlens)
    odd = torch.nonzero(lengths % (2 * size))
    if len(odd):
        segment = int(odd[0])
        raise ValueError(
            f"segment {segment} has {int(lengths[segment])} positions, but {size} "
            f"context-parallel ranks need a multiple of {2 * size}"
        )


@dataclass(frozen=True, slots=True)
class CausalChunks:
    """The query chunks of one rank, and the keys that each chunk attends to.

    Lists of ``num_chunks`` numbers. A chunk's last query attends to all of its keys, the query
    before it to all but the last key, and so on: a causal mask aligned to the lower right corner.
    """

    num_queries: list[int]
    key_starts: list[int]
    """The first key's position in the whole row."""
    num_keys: list[int]


def causal_chunks(cu_seqlens: Tensor, size: int, rank: int) -> CausalChunks:
    """Return the query chunks of ``rank`` and their keys, for all segments of a row."""
    offsets = cu_seqlens.tolist()
    num_queries, key_starts, num_keys = [], [], []
    for start, stop in pairwise(offsets):
        chunk = (stop - start) // (2 * size)
        for number in (rank, 2 * size - 1 - rank):
            if chunk > 0:
                num_queries.append(chunk)
                key_starts.append(start)
                num_keys.append((number + 1) * chunk)
    return CausalChunks(num_queries, key_starts, num_keys)


class GatherRow(torch.autograd.Function):  # type: ignore[misc]  # untyped in torch
    """Gathers a row, in position order, from the ranks that share it."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, cu_seqlens: Tensor, group: ProcessGroup) -> Tensor:
        """Gather ``(positions / size, ...)`` of every rank to ``(positions, ...)``."""
        size = group.size()
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(size)]
        torch.distributed.all_gather(parts, part.contiguous(), group=group)
        order = torch.cat([partition_indices(cu_seqlens, size, rank) for rank in range(size)])
        ctx.group = group
        ctx.held = order.view(size, -1)[group.rank()]
        gathered = torch.cat(parts)
        return torch.empty_like(gathered).index_copy_(0, order, gathered)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Sum the row's gradient over the ranks and keep this rank's positions."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total[ctx.held], None, None
