# SPDX-License-Identifier: Apache-2.0
"""Deals the packs of a global batch to ranks and micro-batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core


def balance_batch(work: NDArray[np.int64], num_ranks: int, *, pipelined: bool) -> NDArray[Any]:
    """Share the work of a batch equally among ranks.

    Args:
        work: Shape ``(batch,)``: the work of each pack.
        num_ranks: Data-parallel ranks, of which each takes every ``num_ranks``-th pack.
        pipelined: Put light micro-batches at both ends, for ranks of several pipeline stages.
            Otherwise the heaviest comes first.

    Returns:
        int64 numbers of packs in their new order, shape ``(batch,)``.
    """
    dealt: NDArray[Any] = _core.balance(work, num_ranks)
    if not pipelined:
        return dealt
    micro_batches = dealt.reshape(-1, num_ranks)
    return micro_batches[light_at_both_ends(len(micro_batches))].ravel()


def light_at_both_ends(count: int, *, together: int = 1) -> list[int]:
    """Order micro-batches for a pipeline, which fills and drains while few of them are in it.

    Args:
        count: Micro-batches, of which number 0 is the heaviest.
        together: So many that follow each other in weight stay neighbors.

    Returns:
        The numbers in the order in which they are to be computed: the heaviest in the middle.
    """
    groups = [list(range(count))[first : first + together] for first in range(0, count, together)]
    rising = [number for group in reversed(groups[1::2]) for number in reversed(group)]
    return rising + [number for group in groups[::2] for number in group]
