# SPDX-License-Identifier: Apache-2.0
"""Draws when each pipeline stage computes what."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_packing.page.lanes import Bar, draw_lanes
from megatron_packing.simulate.play import TimedPass

_MOST_PASSES = 4_000


def draw_timeline(timeline: Sequence[TimedPass], *, title: str, alone: bool = False) -> str:
    """Draw the passes of a pipeline, a lane for each stage.

    Forward passes are light, backward passes dark; gaps are waiting. The numbers are those of
    micro-batches.

    Args:
        timeline: The passes. After the first some thousand, later ones are left out.
        title: What it shows.
        alone: Whether it is a file of its own.
    """
    shown = sorted(timeline, key=lambda one: one.start)[:_MOST_PASSES]
    stages = 1 + max(one.stage for one in shown)
    lanes: list[tuple[str, list[Bar]]] = [(f"stage {stage}", []) for stage in range(stages)]
    for one in shown:
        what = one.what
        direction = "backward" if what.is_backward else "forward"
        chunk = f", chunk {what.chunk}" if any(other.what.chunk for other in shown[:200]) else ""
        lanes[one.stage][1].append(
            Bar(
                one.start,
                one.end - one.start,
                "g" if what.is_backward else "f",
                f"{direction} of micro-batch {what.micro_batch}{chunk}: "
                f"{one.end - one.start:.3g} s from {one.start:.3g} s",
                str(what.micro_batch),
            )
        )
    total = max(one.end for one in shown)
    return draw_lanes(lanes, total=total, title=title, height=18, alone=alone)
