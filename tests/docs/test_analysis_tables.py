# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/analysis.md are those of the committed CSV files."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("chitchat_dataset")

from benchmarks.study.tables_in_docs import PAGE, PLACE, TABLES, filled


def test_tables_are_those_of_the_files():
    text = PAGE.read_text(encoding="utf-8")
    assert {name for _, name, _ in PLACE.findall(text)} == set(TABLES)
    assert filled(text) == text, "write them with: python -m benchmarks.study.tables_in_docs"
