# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of finished runs into docs/analysis.md.

    python -m benchmarks.study.tables_in_docs

Each stands between the lines ``<!-- table NAME -->`` and ``<!-- end -->``, where NAME is one of
those below. A test checks that the page has what the CSV files say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.study.orders import orders_table
from benchmarks.study.probe_csv import probe_table
from benchmarks.study.table import quality_table
from benchmarks.study.table5 import measured_table, published_table

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "analysis.md"
TABLES: dict[str, Callable[[], str]] = {
    "quality of a million parameters": lambda: quality_table(HERE / "tiny.csv"),
    "causes": lambda: quality_table(HERE / "causes.csv"),
    "quality of SmolLM2": lambda: quality_table(HERE / "smollm2.csv"),
    "probe of SmolLM2": lambda: probe_table(HERE / "probe_smollm2.csv"),
    "orders": lambda: orders_table(HERE / "orders.csv"),
    "measured steps": lambda: measured_table(HERE / "table5.csv"),
    "published steps": published_table,
}
PLACE = re.compile(r"(<!-- table (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return a page with its tables as the CSV files have them now."""
    return PLACE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
