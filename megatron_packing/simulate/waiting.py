# SPDX-License-Identifier: Apache-2.0
"""Measures how long ranks wait for each other in a step, by the work of their rows alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_packing.flops.model import WorkModel
from megatron_packing.planning.rows import Rows
from megatron_packing.simulate.play import play
from megatron_packing.simulate.schedule import Schedule

_FORWARD = 1 / 3  # of the work of a pass; the gradients of inputs and weights are the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Means over steps. The first two and the last are 1 where nobody waits, the others are 0."""

    slowest_rank: float
    """Work of the rank with the most over the mean. Data parallelism waits once a step."""
    slowest_micro_batch: float
    """Sum over micro-batches of the most work of a rank, over the mean work of a rank. Pipeline,
    expert and fully sharded parallelism wait in every micro-batch."""
    idle_attention: float
    """Share of the time that ranks are idle in a micro-batch, by attention alone."""
    spread_of_steps: float
    """Standard deviation of the work of a step, over its mean."""
    step_over_equal: float
    """Time of a step over that of a step whose micro-batches are all the mean row."""


def measure_waiting(
    rows: Rows, dealt: NDArray[np.int64], model: WorkModel, *, pipeline: int = 1, virtual: int = 1
) -> Waiting:
    """Measure dealt rows.

    A row's forward pass takes a third of its work, and each stage of a pipeline has the same share
    of it. Sending results takes no time.

    Args:
        rows: The rows.
        dealt: Numbers of rows, shape ``(num_steps, num_ranks, num_micro_batches)``.
        model: The work of a row.
        pipeline: Pipeline stages.
        virtual: Model chunks of each stage; above 1 the schedule is interleaved.
    """
    squares = rows.squares.astype(np.float64)
    work = model.total(rows.positions.astype(np.float64), squares)[dealt]
    attention = squares[dealt]
    of_ranks = work.sum(axis=2)
    mean = of_ranks.mean(axis=1)
    most = attention.max(axis=1)
    return Waiting(
        slowest_rank=float((of_ranks.max(axis=1) / mean).mean()),
        slowest_micro_batch=float((work.max(axis=1).sum(axis=1) / mean).mean()),
        idle_attention=float((1 - attention.mean(axis=1) / most).mean()),
        spread_of_steps=float(of_ranks.sum(axis=1).std() / of_ranks.sum(axis=1).mean()),
        step_over_equal=_step_over_equal(work, Schedule(pipeline, virtual, dealt.shape[2])),
    )


def _step_over_equal(work: NDArray[np.float64], schedule: Schedule) -> float:
    num_steps, num_ranks, num_micro_batches = work.shape
    pipelines = work.reshape(-1, num_micro_batches)
    seconds = _play(pipelines, schedule).reshape(num_steps, num_ranks).max(axis=1)
    equal = _play(np.full((1, num_micro_batches), work.mean()), schedule)
    return float(seconds.mean() / equal[0])


def _play(work: NDArray[np.float64], schedule: Schedule) -> NDArray[np.float64]:
    parts = schedule.num_stages * schedule.num_chunks
    shape = (len(work), schedule.num_stages, schedule.num_chunks, work.shape[1])
    passes = np.broadcast_to(work[:, None, None, :] / parts, shape)
    return play(schedule, passes * _FORWARD, passes * (1 - _FORWARD)).seconds
