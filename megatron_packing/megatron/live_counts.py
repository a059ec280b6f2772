# SPDX-License-Identifier: Apache-2.0
"""Counts what the rows of a step hold, on the ranks that read them, without the GPU.

A row is counted on the CPU as it is read. Ranks tell each other the sums once a log interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_packing.flops.model import WorkModel
from megatron_packing.megatron.device import own_device


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What one row holds."""

    tokens: int
    """Positions of documents, without padding."""
    squares: int
    """The sum of their squared lengths."""
    span_squares: int
    """The sum of the squared lengths of attention spans, with padding."""
    documents: int
    trained: int
    """Labels with a weight; 0 on pipeline stages without tokens."""

    @classmethod
    def of(cls, sample: dict[str, Tensor]) -> RowCounts:
        """Count a sample of ``PackedDataset``, as a dataloader gives it."""
        real = sample["real_lengths"].view(-1).numpy().astype("int64")
        spans = torch.diff(sample["cu_seqlens"].view(-1)).numpy().astype("int64")
        weights = sample.get("loss_mask")
        return cls(
            tokens=int(real.sum()),
            squares=int(real @ real),
            span_squares=int(spans @ spans),
            documents=int((real > 0).sum()),
            trained=0 if weights is None else int(np.count_nonzero(weights.numpy() != 0)),
        )


@dataclass(frozen=True, slots=True)
class IntervalCounts:
    """What all ranks read in some steps; equal on all ranks."""

    steps: int
    rows: int
    tokens: int
    squares: int
    documents: int
    trained: int
    work: float
    """Of all rows, in the unit of the work model."""
    slowest_work: float
    """The sum over steps of the rank with the most work in the step."""
    slowest_row_work: float
    """The sum over micro-batches of the rank with the most work in the micro-batch."""
    ranks: int
    """Data-parallel ranks."""


class LiveCounts:
    """The rows that this rank trained on since the last log, step by step."""

    def __init__(self) -> None:
        self._rows: list[RowCounts] = []
        self._steps: list[int] = []

    def add(self, row: RowCounts | None) -> None:
        """Count a row; None on ranks that do not read."""
        if row is not None:
            self._rows.append(row)

    def end_step(self, micro_batches: int) -> None:
        """Say that a step of so many micro-batches is over. Call it on every rank."""
        self._steps.append(micro_batches)

    def clear(self) -> None:
        """Begin anew."""
        self._rows, self._steps = [], []

    def reduce(self, positions: int, work_model: WorkModel) -> IntervalCounts | None:
        """Sum over ranks and steps. All ranks call it.

        Args:
            positions: Positions of a row.
            work_model: Of the model.

        Returns:
            None if a rank did not count the rows of each micro-batch once.
        """
        expected = sum(self._steps)
        is_counted = _is_first_of_its_data()
        rows = self._rows if is_counted and len(self._rows) == expected else []
        work = [float(work_model.total(positions, row.span_squares)) for row in rows]
        sums = torch.tensor(
            [
                float(is_counted),
                len(rows),
                *(
                    sum(getattr(row, name) for row in rows)
                    for name in ("tokens", "squares", "documents", "trained")
                ),
                sum(work),
            ],
            dtype=torch.float64,
        )
        largest = torch.tensor(
            [*(work or [0.0] * expected), *_sum_steps(work, self._steps)], dtype=torch.float64
        )
        if torch.distributed.get_world_size() > 1:
            sums, largest = sums.to(own_device()), largest.to(own_device())
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        ranks, counted, tokens, squares, documents, trained, whole_work = sums.tolist()
        if not counted or counted != ranks * expected:
            return None
        by_row = largest.tolist()
        return IntervalCounts(
            steps=len(self._steps),
            rows=int(counted),
            tokens=int(tokens),
            squares=int(squares),
            documents=int(documents),
            trained=int(trained),
            work=whole_work,
            slowest_work=sum(by_row[expected:]),
            slowest_row_work=sum(by_row[:expected]),
            ranks=int(ranks),
        )


trained_rows = LiveCounts()
"""The rows of this process; ``trainer.forward_step`` adds them."""


def _sum_steps(work: Sequence[float], steps: Sequence[int]) -> list[float]:
    """Return the work of each step; zeros on ranks that count nothing."""
    sums, start = [], 0
    for rows in steps:
        sums.append(sum(work[start : start + rows]))
        start += rows
    return sums


def _is_first_of_its_data() -> bool:
    """Whether this rank counts for those that get the same rows."""
    return bool(
        parallel_state.get_tensor_model_parallel_rank() == 0
        and parallel_state.get_context_parallel_rank() == 0
        and parallel_state.is_pipeline_first_stage(ignore_virtual=True)
    )
