# SPDX-License-Identifier: Apache-2.0
"""Writes what ``megatron-packing probe --json`` measured as a small CSV file.

    python -m benchmarks.study.probe_csv PROBE.json FILE.csv

A line has the means of one variant over layers and heads, and of each layer over its heads the
attention on earlier documents and end tokens.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.study.markdown import table
from benchmarks.study.results import append_result, read_results
from megatron_packing.probe.result import EARLIER, END_TOKENS, ROW_START


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeLine:
    """One variant."""

    neighbors: str
    positions: str
    end_token: str
    loss: float
    loss_change: float
    standard_error: float
    earlier: float
    row_start: float
    end_tokens: float
    uniform: float
    by_layer: str


def lines_of(record: dict) -> list[ProbeLine]:
    """Return a line for each variant of a record, first that of documents alone."""
    alone = {"neighbors": "none", "positions": "", "end_token": None, **record["alone"]}
    lines = []
    for one in (alone, *record["variants"]):
        layers = np.array(one["shares"]).mean(axis=1)
        means, uniform = layers.mean(axis=0), one["uniform"]
        leak = layers[:, EARLIER] + layers[:, END_TOKENS]
        lines.append(
            ProbeLine(
                neighbors=one["neighbors"],
                positions=one["positions"],
                end_token="" if one["end_token"] is None else str(one["end_token"]),
                loss=round(one["loss"], 4),
                loss_change=round(one.get("loss_change", 0.0), 4),
                standard_error=round(one.get("standard_error", 0.0), 4),
                earlier=round(float(means[EARLIER]), 4),
                row_start=round(float(means[ROW_START]), 4),
                end_tokens=round(float(means[END_TOKENS]), 4),
                uniform=round(uniform[EARLIER] + uniform[END_TOKENS], 4),
                by_layer=" ".join(f"{share:.3f}" for share in leak),
            )
        )
    return lines


def probe_table(path: Path) -> str:
    """Return the lines of a CSV file as a table."""
    headings = "neighbors, positions, end token, loss, change, earlier documents, row's first token"
    return table(
        [*headings.split(", "), "end tokens", "if equal", "least layer", "most"],
        (
            (
                one.neighbors,
                one.positions,
                one.end_token or "-",
                f"{one.loss:.3f}",
                f"{one.loss_change:+.3f} ± {one.standard_error:.3f}",
                f"{one.earlier:.3f}",
                f"{one.row_start:.3f}",
                f"{one.end_tokens:.3f}",
                f"{one.uniform:.3f}",
                f"{min(map(float, one.by_layer.split())):.2f}",
                f"{max(map(float, one.by_layer.split())):.2f}",
            )
            for one in read_results(path, ProbeLine)
        ),
    )


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("csv", type=Path)
    args = parser.parse_args()
    record = json.loads(args.json.read_text(encoding="utf-8"))
    args.csv.unlink(missing_ok=True)
    comment = (
        f"megatron-packing probe {record['checkpoint']} {record['corpus']} "
        f"--documents {record['num_documents']} "
        f"--documents-per-row {record['documents_per_row']} --json {args.json}"
    )
    for line in lines_of(record):
        append_result(args.csv, line, comment)


if __name__ == "__main__":
    main()
