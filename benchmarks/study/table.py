# SPDX-License-Identifier: Apache-2.0
"""Compares the conditions of a study with padding, as a Markdown table.

python -m benchmarks.study.table FILE.csv [--reference CONDITION]
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.conditions import PADDING
from benchmarks.study.markdown import table
from benchmarks.study.results import Result, read_results
from megatron_packing.report.console import console


@dataclass(frozen=True, slots=True)
class Comparison:
    """A condition against the reference, over the seeds that both have."""

    condition: str
    seeds: int
    steps: float
    documents_per_step: float
    token_spread: float
    loss: float
    """Mean over seeds of the mean loss of a held-out trained token."""
    seed_spread: float
    """Standard deviation of that over seeds; nan with one seed."""
    change: float
    """Mean loss of a held-out document minus that under the reference."""
    error_over_documents: float
    """Paired standard error of ``change`` over documents."""
    error_over_seeds: float
    """Standard error of ``change`` over seeds; nan with one seed."""


def compare(results: list[Result], reference: str = PADDING) -> list[Comparison]:
    """Compare every condition with the reference, in the order of the file.

    Args:
        results: Finished runs. Those from the weights that most started from are compared.
        reference: The name of a condition.
    """
    bases = Counter(one.base for one in results)
    results = [one for one in results if one.base == bases.most_common(1)[0][0]]
    by_key = {one.key: one for one in results}
    found = []
    for condition in dict.fromkeys(one.condition for one in results):
        seeds = [
            one.seed
            for one in results
            if one.condition == condition and (reference, one.seed) in by_key
        ]
        if not seeds:
            continue
        runs = [by_key[condition, seed] for seed in seeds]
        references = [by_key[reference, seed] for seed in seeds]
        changes = np.stack(  # seeds, documents
            [_losses(run) - _losses(other) for run, other in zip(runs, references, strict=True)]
        )
        losses = np.array([run.loss for run in runs])
        found.append(
            Comparison(
                condition=condition,
                seeds=len(seeds),
                steps=float(np.mean([run.steps for run in runs])),
                documents_per_step=float(np.mean([run.documents_per_step for run in runs])),
                token_spread=float(np.mean([run.token_spread for run in runs])),
                loss=float(losses.mean()),
                seed_spread=_deviation(losses),
                change=float(changes.mean()),
                error_over_documents=_error(changes.mean(axis=0)),
                error_over_seeds=_error(changes.mean(axis=1)),
            )
        )
    return found


def _losses(run: Result) -> NDArray[np.float64]:
    return np.array(run.document_losses.split(), np.float64) / 1000


def _deviation(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _error(values: NDArray[np.float64]) -> float:
    return _deviation(values) / np.sqrt(len(values))


def quality_table(path: Path, reference: str = PADDING) -> str:
    """Return the comparison of a CSV file as a Markdown table; nothing if there is no file."""
    headings = "condition, seeds, steps, documents a step, token spread, token loss, sd over seeds"
    return table(
        [
            *headings.split(", "),
            f"document loss minus {reference}",
            "se over documents",
            "se over seeds",
        ],
        (
            (
                one.condition,
                f"{one.seeds}",
                f"{one.steps:.0f}",
                f"{one.documents_per_step:.1f}",
                f"{one.token_spread:.2f}",
                f"{one.loss:.4f}",
                _number(one.seed_spread),
                f"{one.change:+.4f}",
                f"{one.error_over_documents:.4f}",
                _number(one.error_over_seeds),
            )
            for one in compare(read_results(path), reference)
        ),
    )


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--reference", default=PADDING, metavar="CONDITION")
    args = parser.parse_args()
    console.print(quality_table(args.csv, args.reference))


if __name__ == "__main__":
    main()
