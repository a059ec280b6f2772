# SPDX-License-Identifier: Apache-2.0
"""Draws bars on parallel lanes as SVG: documents in rows, and passes in pipeline stages.

Each bar says what it is when the pointer rests on it. Colors are variables of CSS, so a page can
give others for the dark; patterns and gaps tell bars apart without color.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
.lanes { font: 11px system-ui, sans-serif; --ink: #1b2733; --paper: #fff; --bar-a: #86b7d6;
  --bar-b: #d9e7f0; --bar-c: #4d8fb8; --bar-d: #b3d2e5; --back: #f2b36b; --edge: #fff;
  --empty: #8a939c; }
@media (prefers-color-scheme: dark) { .lanes { --ink: #e4e9ee; --paper: #14191f; --bar-a: #3f7fa8;
  --bar-b: #24475e; --bar-c: #69a8d0; --bar-d: #2f617f; --back: #b0722a; --edge: #14191f;
  --empty: #79838d; } }
@media print { .lanes { --ink: #000; --paper: #fff; --bar-a: #86b7d6; --bar-b: #d9e7f0;
  --bar-c: #4d8fb8; --bar-d: #b3d2e5; --back: #f2b36b; --edge: #fff; --empty: #8a939c; } }
.lanes text { fill: var(--ink); }
.lanes .a { fill: var(--bar-a); } .lanes .b { fill: var(--bar-b); }
.lanes .c { fill: var(--bar-c); } .lanes .d { fill: var(--bar-d); }
.lanes .f { fill: var(--bar-a); } .lanes .g { fill: var(--back); }
.lanes .p { fill: url(#padding); } .lanes .k { fill: url(#cut); }
.lanes rect { stroke: var(--edge); stroke-width: .8; }
.lanes .n { font-size: 8px; text-anchor: middle; }
""".strip()
"""For a page with such drawings, or for a file of its own."""
PATTERNS = (
    '<defs><pattern id="padding" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><path d="M0 0V6" style="stroke:var(--empty);stroke-width:1.6"/>'
    '</pattern><pattern id="cut" width="5" height="5" patternUnits="userSpaceOnUse">'
    '<path d="M0 5L5 0" style="stroke:var(--ink);stroke-width:.9"/></pattern></defs>'
)
_LEFT, _GAP = 60, 3


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar on a lane."""

    start: float
    length: float
    kind: str
    """One of the classes of ``STYLE``: a to d a document, k over it that it is cut, p padding, f a
    forward and g a backward pass."""
    title: str
    """What is shown when the pointer rests on it."""
    label: str = ""
    """A text in it, left out where it does not fit."""


def draw_lanes(
    lanes: Sequence[tuple[str, Sequence[Bar]]],
    *,
    total: float,
    title: str,
    width: int = 960,
    height: int = 14,
    alone: bool = False,
) -> str:
    """Draw lanes.

    Args:
        lanes: The name and the bars of each.
        total: The length of a lane, in the unit of the bars.
        title: What the drawing shows, for those who do not see it.
        width: Of the drawing.
        height: Of a lane.
        alone: Whether the drawing is a file of its own, with its style, and not part of a page
            that has ``STYLE`` and ``PATTERNS`` once.
    """
    scale = (width - _LEFT) / total if total > 0 else 0.0
    bottom = len(lanes) * (height + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lanes" role="img" '
        f'preserveAspectRatio="none" viewBox="0 0 {width} {bottom}" style="--lanes:{len(lanes)}">'
        f"<title>{escape(title)}</title>"
    ]
    if alone:
        parts.append(f"<style>{STYLE}</style>{PATTERNS}")
        parts.append('<rect width="100%" height="100%" style="fill:var(--paper)"/>')
    for number, (name, bars) in enumerate(lanes):
        top = number * (height + _GAP)
        parts.append(f'<text x="0" y="{top + height - 3}">{escape(name)}</text>')
        for bar in bars:
            left, wide = _LEFT + bar.start * scale, bar.length * scale
            parts.append(
                f'<rect class="{bar.kind}" x="{left:.1f}" y="{top}" width="{wide:.2f}" '
                f'height="{height}"><title>{escape(bar.title)}</title></rect>'
            )
            if bar.label and wide > 4 + 5 * len(bar.label):
                parts.append(
                    f'<text class="n" x="{left + wide / 2:.1f}" y="{top + height - 4}">'
                    f"{escape(bar.label)}</text>"
                )
    parts.append("</svg>")
    return "".join(parts)
