# SPDX-License-Identifier: Apache-2.0
"""Reads the fenced blocks of the documentation's pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.conftest import ROOT

DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    text: str
    number: int
    """Among the blocks of its kind in the page."""
    title: str
    """The file that a reader puts it in, or nothing."""


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page, a path in docs/, in their order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    counts: dict[str, int] = {}
    for indent, kind, title, body in re.findall(
        r'^( *)```(\w*)(?: title="(.*?)")?\n(.*?)^\1```$', text, re.DOTALL | re.MULTILINE
    ):
        lines = (line.removeprefix(indent) for line in body.splitlines(keepends=True))
        yield Block(kind, "".join(lines), counts.get(kind, 0), title)
        counts[kind] = counts.get(kind, 0) + 1
