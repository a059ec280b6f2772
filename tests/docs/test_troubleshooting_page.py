# SPDX-License-Identifier: Apache-2.0
"""The error texts on the page about troubleshooting are those of the package."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.pages import DOCS

ANY = "…"
LEAST = 9
"""Letters and spaces of a quoted text, so that it is recognized."""


def template(node: ast.expr) -> str:
    """The text that an expression makes, with ``ANY`` in place of its variable parts."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return ANY


@cache
def templates(package: Path) -> tuple[str, ...]:
    """All texts in the package's sources but docstrings."""
    found = []
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""
        found += [
            template(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)
        ]
    return tuple(text for text in found if len(text) >= LEAST)


def quotes() -> list[str]:
    """The code in the first column of each row."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def occurs(quote: str, text: str) -> bool:
    """Whether the parts of a quote occur in a text, in their order."""
    start = 0
    for part in filter(None, map(str.strip, quote.split(ANY))):
        place = text.find(part, start)
        if place < 0:
            return False
        start = place + len(part)
    return True


@pytest.mark.parametrize("quote", quotes())
def test_a_quoted_error_is_in_the_sources(quote):
    assert len(re.sub(f"[^a-z ]|{ANY}", "", quote)) >= LEAST, "too short to be recognized"
    assert any(occurs(quote, text) for text in templates(ROOT / "megatron_packing"))


def test_every_table_quotes_and_a_text_that_nobody_raises_is_not_found():
    assert len(quotes()) > 80
    assert not any(
        occurs("the rows that … are purple", text) for text in templates(ROOT / "megatron_packing")
    )
