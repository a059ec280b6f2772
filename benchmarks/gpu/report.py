# SPDX-License-Identifier: Apache-2.0
"""Prints what measure.py found.

python benchmarks/gpu/report.py FOLDER [--markdown]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from stages import STAGES

Rows = list[list[str]]
LEGEND = """\
tokens/s: real tokens. MFU: their operations over the card's data sheet. peak: all operations, those
of padding too, over what a large matrix product reaches. faster: tokens/s over those of padded
rows. share: faster over the ratio of rows, with its standard error."""


SPEED = (
    "method",
    "rows",
    "ms/row",
    "tokens/s",
    "MFU",
    "peak",
    "GB",
    "faster",
    "share",
)


def speed_tables(found: dict[str, dict[str, Any]]) -> dict[str, Rows]:
    """Of each setting a table with a line for each way to fill rows."""
    machine = found.get("machine", {})
    peak, product = machine.get("data_sheet_flops"), machine.get("product_flops")
    tables = {}
    for setting in found.get("rows", {}).get("settings", []):
        ways, lines = setting["ways"], []
        for way, figures in ways.items():
            faster, share = faster_and_share(way, ways)
            useful, computed = (figures[f"{x}_flops_per_second"] for x in ("useful", "computed"))
            lines.append(
                [
                    way,
                    f"{figures['rows']:,}",
                    f"{figures['seconds_per_row'] * 1e3:.0f}",
                    f"{figures['tokens_per_second']:,.0f}",
                    f"{useful / peak:.1%}" if peak else "-",
                    f"{computed / product:.0%}" if product else "-",
                    f"{figures['peak_gigabytes']:.1f}",
                    f"{faster:.2f}",
                    # random truncates nothing, so it has other tokens
                    "-" if way == "random" else f"{share:.2f} ± {error(way, ways):.2f}",
                ]
            )
        title = f"{setting['corpus']}, rows of {setting['row']:,}, {setting['layers']} layers"
        tables[title] = lines
    return tables


def faster_and_share(way: str, ways: dict[str, Any]) -> tuple[float, float]:
    """Real tokens a second over those of padded rows, and that over the ratio of rows."""
    faster = ways[way]["tokens_per_second"] / ways["padded"]["tokens_per_second"]
    return faster, faster / (ways["padded"]["rows"] / ways[way]["rows"])


def error(way: str, ways: dict[str, Any]) -> float:
    """The standard error of a share: of the mean times of both ways, over the rows measured."""
    if way == "padded":
        return 0.0
    relative = 0.0
    for name in (way, "padded"):
        times = ways[name]["milliseconds"]
        mean = statistics.mean(times)
        relative += statistics.variance(times) / len(times) / mean**2
    return float(faster_and_share(way, ways)[1] * relative**0.5)


def check_rows(found: dict[str, dict[str, Any]]) -> Rows:
    """Of each stage whether it went well and its figures in a line."""
    lines = []
    for stage, result in found.items():
        said = "ok" if result.get("ok") else "failed"
        lines.append(
            [stage, said, f"{result.get('seconds', 0):.0f}", STAGES[stage].describe(result)]
        )
    return lines


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Results of the stages that ran, in their order."""
    paths = {stage: folder / f"{stage}.json" for stage in STAGES}
    return {stage: json.loads(p.read_text()) for stage, p in paths.items() if p.exists()}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Prints what measure.py found.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--markdown", action="store_true", help="for docs/gpu.md")
    options = parser.parse_args()
    found = read(options.folder)
    if not found:
        sys.exit(f"error: {options.folder} holds no results; give the folder of measure.py --out")
    tables = {"stages": (("stage", "", "s", "found"), check_rows(found))}
    tables |= {title: (SPEED, rows) for title, rows in speed_tables(found).items()}
    for title, (head, rows) in tables.items():
        if options.markdown:
            lines = [list(head), ["---"] * len(head), *rows]
            print(f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
            continue
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    if not options.markdown:
        print(LEGEND)


if __name__ == "__main__":
    main()
