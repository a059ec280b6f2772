# SPDX-License-Identifier: Apache-2.0
"""Draws docs/rows.svg: the same conversations in padded rows and in packed ones.

python tools/draw_rows.py > docs/rows.svg
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from megatron_packing import PackPlan, plan_packs

# Positions of the first 24 conversations of the example data that fit a row.
_LENGTHS = "688 881 41 55 18 90 36 477 679 8 537 429 698 424 388 9 318 987 61 76 89 269 77 443"
LENGTHS = np.array(_LENGTHS.split(), np.int64)
ROW = 2048
_WIDTH, _HEIGHT, _GAP, _TOP = 380, 9, 3, 40
_LEFT = (10, 450)  # of the two pictures


def draw() -> str:
    """Draw both plans beside each other."""
    padded = plan_packs(LENGTHS, ROW, strategy="padding")
    packed = plan_packs(LENGTHS, ROW)
    height = _TOP + padded.num_packs * (_HEIGHT + _GAP) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT[1] + _WIDTH + 10} {height}" '
        f'font-family="sans-serif" font-size="14">',
        f"<title>{len(LENGTHS)} conversations in rows of {ROW:,} positions, padded and packed"
        f"</title>",
        "<style>text { fill: #24292f } @media (prefers-color-scheme: dark) "
        "{ text { fill: #d0d7de } }</style>",
    ]
    for left, name, plan in ((_LEFT[0], "padded", padded), (_LEFT[1], "packed", packed)):
        rows = f"{plan.num_packs} rows, {plan.utilisation:.0%} of their positions used"
        lines.append(f'<text x="{left}" y="24"><tspan font-weight="bold">{name}</tspan>: {rows}')
        lines.append("</text>")
        lines += _rows(plan, left)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _rows(plan: PackPlan, left: int) -> Iterator[str]:
    for row in range(plan.num_packs):
        top = _TOP + row * (_HEIGHT + _GAP)
        yield _box(left, top, _WIDTH, "#8c959f", opacity=0.25)  # padding, where nothing covers it
        start = 0
        first, stop = plan.pack_offsets[row : row + 2]
        for document in plan.document_ids[first:stop].tolist():
            width = LENGTHS[document] / ROW * _WIDTH
            yield _box(left + start, top, width, _color(document))
            start += width


def _box(left: float, top: float, width: float, color: str, opacity: float = 1) -> str:
    shape = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_HEIGHT}"'
    return f'<rect {shape} fill="{color}" fill-opacity="{opacity:g}"/>'


def _color(document: int) -> str:
    """A color for each document; neighbors in number differ most."""
    return f"hsl({document * 137 % 360} 55% 52%)"


if __name__ == "__main__":
    sys.stdout.write(draw())
