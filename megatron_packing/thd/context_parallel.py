# SPDX-License-Identifier: Apache-2.0
"""Which positions of a packed row each context-parallel rank holds.

Every segment is cut into ``2 * size`` chunks of one length, of which rank r holds chunks r and
``2 * size - 1 - r``, so that causal attention is the same work on every rank. This is what
Transformer Engine's ``thd_get_partitioned_indices`` gives (transformer_engine/common/fused_attn/
context_parallel.cu), here for any device and without it.
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
    """The positions of a row that one rank holds, in the order in which it holds them.

    Args:
        cu_seqlens: Integers ``(num_segments + 1,)`` from 0 to the positions of the row.
        size: Ranks that share the row.
        rank: From 0 to ``size - 1``.

    Returns:
        int64, ``(positions / size,)``.

    Raises:
        ValueError: A segment is not a multiple of ``2 * size``.
    """
    if size == 1:
        return torch.arange(int(cu_seqlens[-1]), device=cu_seqlens.device)
    offsets = cu_seqlens.long()
    check_divisible(offsets, size)
    held = torch.arange(int(offsets[-1]) // size, device=offsets.device)
    local = offsets // size  # where segments start among what a rank holds
    segment = torch.bucketize(held, local[1:], right=True)
    start = offsets[segment]
    within = held - local[segment]
    chunk = (offsets[segment + 1] - start) // (2 * size)
    second = within >= chunk
    return start + within + torch.where(second, 2 * (size - 1) - rank, rank) * chunk


def check_divisible(cu_seqlens: Tensor, size: int) -> None:
    """Raise ValueError where a segment cannot be cut into ``2 * size`` equal chunks."""
    lengths = torch.diff(cu_seqlens)
    odd = torch.nonzero(lengths % (2 * size))
    if len(odd):
        segment = int(odd[0])
        raise ValueError(
            f"segment {segment} has {int(lengths[segment])} positions, which {size} "
            f"context-parallel ranks cannot share: it must be a multiple of {2 * size}"
        )


@dataclass(frozen=True, slots=True)
class CausalChunks:
    """The chunks of queries that a rank holds, and the keys that each sees.

    Lists of ``num_chunks`` numbers. The last query of a chunk sees the last of its keys, the one
    before all but that, and so on: a causal mask aligned to the lower right corner.
    """

    num_queries: list[int]
    key_starts: list[int]
    """Where the keys begin in the whole row."""
    num_keys: list[int]


def causal_chunks(cu_seqlens: Tensor, size: int, rank: int) -> CausalChunks:
    """What ``rank`` computes of causal attention within each segment of a row."""
    offsets = cu_seqlens.tolist()
    num_queries, key_starts, num_keys = [], [], []
    for start, stop in pairwise(offsets):
        chunk = (stop - start) // (2 * size)
        for place in (rank, 2 * size - 1 - rank):
            if chunk > 0:
                num_queries.append(chunk)
                key_starts.append(start)
                num_keys.append((place + 1) * chunk)
    return CausalChunks(num_queries, key_starts, num_keys)


class GatherRow(torch.autograd.Function):  # type: ignore[misc]  # torch leaves it untyped
    """Gathers a row, positions in their order, from the ranks that share it."""

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
        """Sum the gradient of the row over the ranks; keep this rank's positions."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total[ctx.held], None, None
