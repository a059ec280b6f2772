# SPDX-License-Identifier: Apache-2.0
"""Plans one training step from the lengths of its documents: micro-batches for every rank."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megatron_packing import _core
from megatron_packing.counted import counted

_NO_LIMIT = 2**63 - 1


class RankMicroBatches(Sequence[list[NDArray[np.int64]]]):
    """The micro-batches of every rank: ``micro_batches[rank][i]`` is an array of documents."""

    def __init__(self, documents: NDArray[np.int64], offsets: NDArray[np.int64], num_ranks: int):
        """Wrap the documents of all micro-batches, rank by rank, and where each begins."""
        self._documents = documents
        self._offsets = offsets
        self._num_ranks = num_ranks

    def __len__(self) -> int:
        """Number of ranks."""
        return self._num_ranks

    @overload
    def __getitem__(self, rank: int) -> list[NDArray[np.int64]]: ...
    @overload
    def __getitem__(self, rank: slice) -> list[list[NDArray[np.int64]]]: ...
    def __getitem__(self, rank: int | slice) -> Any:
        """Return the micro-batches of a rank, in the order in which it runs them."""
        if isinstance(rank, slice):
            return [self[number] for number in range(*rank.indices(self._num_ranks))]
        number = operator.index(rank)
        if not -self._num_ranks <= number < self._num_ranks:
            raise IndexError(f"rank {number} is not one of {self._num_ranks} ranks")
        per_rank = (len(self._offsets) - 1) // self._num_ranks
        first = number % self._num_ranks * per_rank
        ends = self._offsets[first : first + per_rank + 1].tolist()
        return [self._documents[begin:end] for begin, end in itertools.pairwise(ends)]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """Micro-batches of one step, and how even they are."""

    micro_batches: RankMicroBatches
    """``micro_batches[rank][i]``: int64 indices into ``lengths``, ascending: the documents of the
    rank's i-th micro-batch. Each document is in one micro-batch; no micro-batch is empty."""
    num_micro_batches: int
    """Micro-batches of each rank."""
    lower_bound: int
    """No plan under the same limits has fewer micro-batches a rank."""
    rank: float
    """Work of the rank with the most work / mean work of a rank. Plain data parallelism waits for
    that rank once a step."""
    sync: float
    """Sum over i of the most work in any rank's i-th micro-batch / mean work of a rank. Pipeline,
    expert and fully sharded parallelism wait in every micro-batch."""


def plan_step(
    lengths: ArrayLike,
    *,
    budget: int,
    num_ranks: int,
    work: ArrayLike | tuple[float, float] | None = None,
    num_micro_batches_multiple_of: int = 1,
    max_documents: int | None = None,
    groups: ArrayLike | None = None,
    alignment: int = 1,
) -> StepPlan:
    """Deal the documents of one step to micro-batches of all data-parallel ranks.

    For loops that know the lengths only when the step begins: rollouts of reinforcement learning,
    packing on the fly. Ranks get equally many micro-batches, as few as the budget allows, and about
    the same work, in total and in each micro-batch. The same arguments give the same plan on every
    machine, so that every rank can plan for itself, without communication.

    Each document goes to the emptiest micro-batch, the largest first (Graham, SIAM J. Appl. Math.
    17, 1969); where that does not fit, micro-batches are filled by best fit decreasing and by exact
    fits. Micro-batches of like work are dealt to the ranks together.

    Args:
        lengths: Shape ``(num_documents,)``, integers of at least 1: tokens of each document.
        budget: Tokens of a micro-batch, at most. It is never exceeded.
        num_ranks: Data-parallel ranks.
        work: Cost of each document, shape ``(num_documents,)``, in any unit, at least 0; or a pair
            ``(a, b)`` for ``a * length + b * length**2``, which is what linear layers and causal
            attention cost; None for the length.
        num_micro_batches_multiple_of: The number of micro-batches of a rank is a multiple of this.
            Interleaved pipelines need a multiple of the pipeline's stages.
        max_documents: Documents of a micro-batch, at most; None for no limit.
        groups: Shape ``(num_documents,)``, integers: documents with the same number are put into
            the same micro-batch, such as the two answers of a preference pair. None if each
            document is on its own.
        alignment: Each document takes a multiple of this many tokens of the budget.

    Raises:
        TypeError: ``lengths``, ``groups`` or a setting is not of integers, or ``work`` is not of
            numbers.
        ValueError: An array has another shape or a value outside its range; a setting is below 1; a
            document or a group is over the budget; or there are too few documents for one in every
            micro-batch. The message names the value.
    """
    sizes = _integers("lengths", lengths)
    aligned = operator.index(alignment)
    if aligned < 1:
        raise ValueError(f"alignment is {aligned}; it must be at least 1")
    units = sizes if aligned == 1 else -(-sizes // aligned) * aligned
    together = None if groups is None else _integers("groups", groups, len(sizes))
    documents, offsets, lower_bound, rank, sync = _core.plan_step(
        units,
        _work(sizes, work),
        together,
        operator.index(budget),
        operator.index(num_ranks),
        operator.index(num_micro_batches_multiple_of),
        _NO_LIMIT if max_documents is None else operator.index(max_documents),
    )
    return StepPlan(
        micro_batches=RankMicroBatches(documents, offsets, num_ranks),
        num_micro_batches=(len(offsets) - 1) // num_ranks,
        lower_bound=lower_bound,
        rank=rank,
        sync=sync,
    )


def costs_of(lengths: NDArray[np.int64], work: tuple[float, float] | None) -> NDArray[np.float64]:
    """Return the cost of each document under a work model.

    Args:
        lengths: Shape ``(num_documents,)``: tokens of each document.
        work: ``(a, b)`` for ``a * length + b * length**2``; None for the length.

    Returns:
        Shape ``(num_documents,)``.
    """
    floats = lengths.astype(np.float64)
    if work is None:
        return floats
    per_token, per_square = work
    return (per_token + per_square * floats) * floats


def _integers(name: str, values: ArrayLike, size: int | None = None) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (size is not None and array.size != size):
        expected = "one dimension" if size is None else f"the shape of lengths, ({size},)"
        raise ValueError(f"{name} has shape {array.shape}; it must have {expected}")
    if array.size == 0:
        raise ValueError(f"{name} is empty; there is nothing to plan")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}; it must hold integers")
    if array.dtype == np.uint64 and array.max() > _NO_LIMIT:
        raise ValueError(f"{name} holds {array.max()}, which does not fit in 64 bits")
    return np.ascontiguousarray(array, dtype=np.int64)


def _work(lengths: NDArray[np.int64], work: Any) -> NDArray[np.float64]:
    if work is None:
        return costs_of(lengths, None)
    if isinstance(work, tuple):
        if len(work) != 2:
            raise ValueError(
                f"work is a tuple of {counted(len(work), 'number')}; give (a, b), the costs of a "
                f"token and of a squared length, or an array with the cost of each document"
            )
        return costs_of(lengths, (float(work[0]), float(work[1])))
    array = np.asarray(work)
    if array.shape != lengths.shape:
        raise ValueError(
            f"work has shape {array.shape}; it must have the shape of lengths, {lengths.shape}"
        )
    if array.dtype.kind not in "iuf":
        raise TypeError(f"work has dtype {array.dtype}; it must hold numbers")
    return np.ascontiguousarray(array, dtype=np.float64)
