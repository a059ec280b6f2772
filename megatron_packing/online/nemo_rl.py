# SPDX-License-Identifier: Apache-2.0
"""A packer of one batch's sequences, as NeMo-RL asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megatron_packing.planning.step import StepPlan, plan_step


class StepPacker:
    """Packs sequences into bins that are even where ranks meet.

    Stands in for the packers of ``nemo_rl.data.packing.algorithms``: ``get_packer`` of
    ``nemo_rl.distributed.batched_data_dict`` may return it. NeMo-RL gives the first bin to the
    first rank, the second to the second, and so on, and asks for a multiple of the ranks.
    """

    def __init__(
        self,
        bin_capacity: int,
        collect_metrics: bool = False,
        min_bin_count: int | None = None,
        bin_count_multiple: int | None = None,
        *,
        work: tuple[float, float] | None = None,
    ):
        """Keep the limits.

        Args:
            bin_capacity: Tokens of a bin, at most.
            collect_metrics: Must be false: NeMo-RL's metrics are of its own packers.
            min_bin_count: Bins, at least; None for no limit.
            bin_count_multiple: The number of bins is a multiple of this, the data-parallel ranks;
                None for 1.
            work: ``(a, b)`` if a sequence costs ``a * length + b * length**2``; None for its
                length.

        Raises:
            ValueError: ``collect_metrics`` is set, or a number is out of its range.
        """
        if collect_metrics:
            raise ValueError(
                "collect_metrics is True, but this packer collects none; set it to False"
            )
        if min_bin_count is not None and min_bin_count < 0:
            raise ValueError(f"min_bin_count is {min_bin_count}; it must be at least 0")
        if bin_count_multiple is not None and bin_count_multiple < 1:
            raise ValueError(f"bin_count_multiple is {bin_count_multiple}; it must be at least 1")
        self._capacity = bin_capacity
        self._least = min_bin_count or 0
        self._ranks = bin_count_multiple or 1
        self._work = work

    def pack(self, sequence_lengths: Sequence[int]) -> list[list[int]]:
        """Pack sequences into bins.

        Args:
            sequence_lengths: Shape ``(num_sequences,)``: tokens of each, with padding.

        Returns:
            Of each bin the indices of its sequences. Bins that ranks run at the same time follow
            each other.

        Raises:
            ValueError: A sequence is over ``bin_capacity``, or there are too few for one in each
                bin.
        """
        lengths = np.asarray(sequence_lengths)
        plan = self._plan(lengths, 1)
        least = -(-self._least // self._ranks)
        if plan.num_micro_batches < least:
            plan = self._plan(lengths, least)
        ranks = list(plan.micro_batches)
        return [batch.tolist() for batches in zip(*ranks, strict=True) for batch in batches]

    def _plan(self, lengths: NDArray[np.int64], multiple: int) -> StepPlan:
        return plan_step(
            lengths,
            budget=self._capacity,
            num_ranks=self._ranks,
            work=self._work,
            num_micro_batches_multiple_of=multiple,
        )
