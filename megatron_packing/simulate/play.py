# SPDX-License-Identifier: Apache-2.0
"""Plays a pipeline's schedule with the durations of its passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megatron_packing.simulate.schedule import Pass, Schedule


class TimedPass(NamedTuple):
    """When a stage computes a pass, in seconds from the start of the step."""

    stage: int
    what: Pass
    start: float
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """Many pipelines, each of which ran the same schedule with durations of its own."""

    seconds: NDArray[np.float64]
    """Shape ``(num_pipelines,)``: when the last stage to end has ended."""
    idle: NDArray[np.float64]
    """Shape ``(num_pipelines, num_stages)``: seconds until then in which a stage waited."""
    timeline: list[TimedPass]
    """Of the first pipeline."""


def play(
    schedule: Schedule,
    forward: NDArray[np.float64],
    backward: NDArray[np.float64],
    transfer: float = 0.0,
) -> Played:
    """Play a schedule.

    A stage computes one pass at a time, in the schedule's order, as soon as the result that the
    pass needs has arrived. Sending takes no time of the stage that sends: a stage never waits for
    another to take its result. In the steady part of 1F1B this is exact, as two stages that
    exchange results need each other's. In the warm-up Megatron's sends meet their receives, so a
    stage may wait a little more there.

    Args:
        schedule: The schedule.
        forward: Seconds of each forward pass, shape
            ``(num_pipelines, num_stages, num_chunks, num_micro_batches)``.
        backward: Seconds of each backward pass, of the same shape.
        transfer: Seconds from the end of a pass until another stage has its result.
    """
    shape = (schedule.num_stages, schedule.num_chunks, schedule.num_micro_batches)
    if forward.shape[1:] != shape or backward.shape != forward.shape:
        raise ValueError(
            f"durations have shapes {forward.shape}, {backward.shape}; not (*, {shape})"
        )
    num_pipelines = len(forward)
    clocks = np.zeros((schedule.num_stages, num_pipelines))
    busy = np.zeros_like(clocks)
    ends: dict[tuple[int, Pass], NDArray[np.float64]] = {}
    timeline: list[TimedPass] = []
    for stage, one in schedule.in_a_possible_order():
        durations = (backward if one.is_backward else forward)[:, stage, one.chunk, one.micro_batch]
        start = clocks[stage].copy()
        needed = schedule.needs(stage, one)
        if needed is not None:
            arrived = ends.pop(needed)  # every result is needed once
            start = np.maximum(start, arrived + transfer if needed[0] != stage else arrived)
        end = start + durations
        ends[stage, one] = end
        busy[stage] += durations
        clocks[stage] = end
        timeline.append(TimedPass(stage, one, float(start[0]), float(end[0])))
    seconds = clocks.max(axis=0)
    return Played(seconds=seconds, idle=(seconds - busy).T, timeline=timeline)
