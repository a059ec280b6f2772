# SPDX-License-Identifier: Apache-2.0
"""Draws packs as rows of documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_packing.page.lanes import Bar, draw_lanes
from megatron_packing.planning.plan import PackPlan

_MOST_BARS = 120  # in a row; short neighbors share a bar beyond
_KINDS = "abcd"  # neighbors have different ones


def draw_packs(plan: PackPlan, lengths: NDArray[np.integer], *, most: int, title: str) -> str:
    """Draw the first packs of a plan, which stand in a seeded order, so they are a sample.

    Args:
        plan: The plan.
        lengths: Shape ``(num_documents,)``: positions of the planned documents.
        most: How many packs.
        title: What the drawing shows.
    """
    lanes = [
        (f"pack {pack:,}", _bars(plan, lengths, pack)) for pack in range(min(most, plan.num_packs))
    ]
    return draw_lanes(lanes, total=plan.sequence_length, title=title)


def _bars(plan: PackPlan, lengths: NDArray[np.integer], pack: int) -> list[Bar]:
    begin, end = (int(offset) for offset in plan.pack_offsets[pack : pack + 2])
    bars: list[Bar] = []
    at = 0
    together: list[int] = []  # documents too short for a bar of their own
    started = 0
    least = plan.sequence_length / _MOST_BARS if end - begin > _MOST_BARS else 0
    for place in range(begin, end):
        document = int(plan.document_ids[place])
        whole = int(lengths[document])
        length, first = whole, 0
        if plan.segment_lengths is not None and plan.segment_starts is not None:
            length, first = int(plan.segment_lengths[place]), int(plan.segment_starts[place])
        aligned = -(-length // plan.alignment) * plan.alignment
        if not together:
            started = at
        together.append(document)
        at += aligned
        is_cut = length < whole
        if at - started < least and place + 1 < end and not is_cut:
            continue
        if len(together) == 1:
            text = f"document {document:,}: {length:,} positions"
            if is_cut:
                text += f", {first:,} to {first + length - 1:,} of {whole:,}"
        else:
            text = f"{len(together):,} documents: {at - started:,} positions"
        kind = _KINDS[len(bars) % len(_KINDS)]
        bars.append(Bar(started, at - started, kind, text))
        if is_cut:
            bars.append(Bar(started, at - started, "k", f"{text} (cut)"))
        together = []
    if at < plan.sequence_length:
        left = plan.sequence_length - at
        bars.append(Bar(at, left, "p", f"padding: {left:,} positions"))
    return bars
