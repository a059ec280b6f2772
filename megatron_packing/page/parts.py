# SPDX-License-Identifier: Apache-2.0
"""Pieces of HTML that sections are made of."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def figure(drawing: str, caption: str = "", *, kind: str = "scroll wide") -> str:
    """A drawing with a caption; ``kind`` has the classes of what holds it."""
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="{kind}">{drawing}</div>{text}</figure>'


def table(header: Sequence[str], body: Sequence[Sequence[str]], best: str | None = None) -> str:
    """A table; the line whose first cell is ``best`` stands out."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = []
    for row in body:
        mark = ' class="best"' if best is not None and row[0] == best else ""
        lines.append(f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
