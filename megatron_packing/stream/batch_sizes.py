# SPDX-License-Identifier: Apache-2.0
"""Which samples of a stream are a global batch, where the size of batches grows on the way."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

Schedule = Sequence[tuple[int, int]]
"""Thresholds in samples, the first one 0 and all ascending, and the size of batches from each on:
``StepBatchsizeNumMicroBatchesCalculator.schedule`` of Megatron's
``core/num_microbatches_calculator.py``."""


class BatchSizes:
    """The global batches of a run, one after another."""

    def __init__(self, schedule: Schedule, first_sample: int = 0) -> None:
        """Find where the size changes.

        A batch has the size that holds for its first sample. So a size begins with the first batch
        that starts at its threshold or later.

        Args:
            schedule: One entry if all batches have one size.
            first_sample: A sample where a batch starts. All batches are counted from it.

        Raises:
            ValueError: A size is below 1, or the first threshold is not 0.
        """
        if not schedule or schedule[0][0] != 0 or min(size for _, size in schedule) < 1:
            raise ValueError(f"{list(schedule)} is no schedule of batch sizes from sample 0 on")
        self._thresholds = [threshold for threshold, _ in schedule]
        self._sizes = [size for _, size in schedule]
        self._starts: list[int] = []  # of the runs of batches of one size
        self._size_from: list[int] = []
        start = first_sample
        for position in range(bisect_right(self._thresholds, first_sample), len(schedule) + 1):
            size = self._sizes[bisect_right(self._thresholds, start) - 1]
            if not self._starts or size != self._size_from[-1]:
                self._starts.append(start)
                self._size_from.append(size)
            if position < len(schedule) and self._thresholds[position] > start:
                start += -(-(self._thresholds[position] - start) // size) * size

    @property
    def sizes(self) -> list[int]:
        """The sizes of batches from the first sample on, each once where it holds."""
        return list(self._size_from)

    def batch_of(self, sample: int) -> range:
        """Return the samples of the batch that a sample is in.

        Batches before the first sample have the size of the first one.
        """
        run = max(0, bisect_right(self._starts, sample) - 1)
        start, size = self._starts[run], self._size_from[run]
        first = start + (sample - start) // size * size
        return range(first, first + size)
