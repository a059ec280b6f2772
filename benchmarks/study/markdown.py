# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose columns but the first are aligned to the right."""
    rows = list(rows)
    if not rows:
        return "No run has ended yet.\n"
    lines = (headings, ("---", *["---:"] * (len(headings) - 1)), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
