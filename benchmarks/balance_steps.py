# SPDX-License-Identifier: Apache-2.0
"""Compares the heaviest rank's work, packs dealt in turn and balanced, on heavy-tailed lengths.

    python benchmarks/balance_steps.py [--batches N] [--json FILE]

Lengths are lognormal(7.0, 1.6), cut to the row, packed longest first. Each global batch has 256
packs for 16 data-parallel ranks. A step lasts as long as its heaviest rank, so the figure is the
heaviest rank's work over the mean of all, which is 1 where no rank waits. The model has the layers
of an 8B Llama 3 (hidden size 4,096, 8 query groups); "attention" alone is the bound of long rows.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from megatron_packing import __version__, _core, plan_packs
from megatron_packing.flops import MODELS as SHAPES
from megatron_packing.flops import WorkModel

PACKS = 256
RANKS = 16
MODELS = {
    "8B": SHAPES["8b"].layer.work_model(),
    "attention": WorkModel(per_token=0, per_squared_length=1),
}


@dataclass(frozen=True, slots=True)
class Result:
    """Work of the heaviest rank over the mean, over all batches."""

    sequence_length: int
    model: str
    deal: str
    mean: float
    worst: float
    microseconds: float
    """To deal one batch, on average."""


def squared_lengths(sequence_length: int, batches: int) -> NDArray[np.int64]:
    """The sum of the squared segments of each pack, its tail among them: ``(batches, PACKS)``."""
    random = np.random.default_rng(0)
    sampled = random.lognormal(7.0, 1.6, 100_000).clip(1, sequence_length).mean()
    num_documents = int(1.1 * batches * PACKS * sequence_length / sampled)
    lengths = random.lognormal(7.0, 1.6, num_documents).astype(np.int64).clip(1, sequence_length)
    plan = plan_packs(lengths, sequence_length, strategy="first_fit_decreasing")
    segments, starts = lengths[plan.document_ids], plan.pack_offsets[:-1]
    tails = sequence_length - np.add.reduceat(segments, starts)
    squares = np.add.reduceat(np.square(segments), starts) + np.square(tails)
    return squares[: batches * PACKS].reshape(batches, PACKS)


def measure(sequence_length: int, batches: int) -> list[Result]:
    """Deal every batch in turn and balanced."""
    squares = squared_lengths(sequence_length, batches)
    results = []
    for name, model in MODELS.items():
        work = model.per_token * sequence_length + model.per_squared_length * squares
        started = time.perf_counter()
        orders = np.array([_core.balance(batch, RANKS) for batch in work])
        seconds = time.perf_counter() - started
        balanced = np.take_along_axis(work, orders, axis=1)
        for deal, dealt, took in (("in turn", work, 0.0), ("balanced", balanced, seconds)):
            ranks = dealt.reshape(batches, -1, RANKS).sum(axis=1)
            ratios = ranks.max(axis=1) / ranks.mean(axis=1)
            figures = (float(ratios.mean()), float(ratios.max()), took / batches * 1e6)
            results.append(Result(sequence_length, name, deal, *figures))
    return results


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare the work of the heaviest rank.")
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    results = [result for length in (8192, 131072) for result in measure(length, args.batches)]
    table = Table(
        *("row", "model", "packs dealt", "heaviest / mean", "worst step", "µs per batch"),
        title=f"{args.batches:,} batches of {PACKS} packs on {RANKS} ranks",
        caption=f"megatron-packing {__version__}, {platform.machine()}, numpy {np.__version__}",
    )
    for result in results:
        table.add_row(
            f"{result.sequence_length:,}",
            *(result.model, result.deal),
            *(f"{result.mean:.5f}", f"{result.worst:.5f}", f"{result.microseconds:.0f}"),
        )
    Console().print(table)
    if args.json is not None:
        report = {
            "version": __version__,
            "machine": platform.machine(),
            "batches": args.batches,
            "packs": PACKS,
            "ranks": RANKS,
            "results": [asdict(result) for result in results],
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
