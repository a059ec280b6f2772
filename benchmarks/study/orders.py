# SPDX-License-Identifier: Apache-2.0
"""Held-out loss under the orders of packs, in the real trainer.

    python -m benchmarks.study.orders --csv FILE.csv [--folder DIR]

Trains a small GPT by Megatron's pretrain() on the CPU, on real conversations, on four data-parallel
ranks: with the random order of packs and with ``--packing-order even``, each from several seeds.
For one seed both start from the same weights and train the same packs equally often. Then
documents that were not trained are evaluated, each alone in its row. Each run appends a line to the
CSV file; start the command again to go on with those that are missing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.study.markdown import table
from benchmarks.study.results import append_result, read_results
from benchmarks.study.table5 import VALIDATION, WAYS, make_index, prepare
from megatron_packing import Corpus
from megatron_packing.report.console import console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import demo

ORDERS = ("random", "even")
VOCABULARY = 2048
ROW = 1024
RANKS = 4
ROWS_PER_STEP = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Ordered:
    """A finished run."""

    order: str
    seed: int
    documents: int
    rows: int
    """Of an epoch."""
    steps: int
    last_training_loss: float
    """Mean over the last ten steps."""
    validation_loss: float
    """Mean loss of a trained token of documents that were not trained, each seen alone."""


def run_one(
    order: str, seed: int, corpus: Corpus, documents: int, validation: int, epochs: int
) -> Ordered:
    """Train in one order from one seed."""
    packed, padded = WAYS[-1], WAYS[0]
    index = make_index(corpus, packed, range(documents), ROW)
    held_out = make_index(corpus, padded, range(documents, documents + validation), ROW)
    steps = epochs * len(index) // ROWS_PER_STEP
    share = 100 * documents / (documents + validation)
    flags = f"""
        --seq-length {ROW} --max-position-embeddings {ROW} --seed {seed} --packing-order {order}
        --split {share},{100 - share},0 --packing-indexes {index.path} {held_out.path}
        --eval-iters {len(held_out) // RANKS} --eval-interval {steps}
        --eval-global-batch-size {RANKS}
    """
    name = f"{order}_{seed}"
    run = demo.train(name, corpus.folder, index, steps, ROWS_PER_STEP, flags, ranks=RANKS)
    found = VALIDATION.findall((corpus.folder / f"{name}.log").read_text())
    return Ordered(
        order=order,
        seed=seed,
        documents=documents,
        rows=len(index),
        steps=steps,
        last_training_loss=round(float(np.mean(run.losses[-10:])), 4),
        validation_loss=round(float(found[-1]), 4),
    )


def orders_table(path: Path) -> str:
    """Return what was measured, as a Markdown table."""
    runs = read_results(path, Ordered)
    losses = {(one.order, one.seed): one.validation_loss for one in runs}
    seeds = sorted({seed for _, seed in losses if all((order, seed) in losses for order in ORDERS)})
    if not seeds:
        return table((), ())
    rows = []
    for order in ORDERS:
        values = np.array([losses[order, seed] for seed in seeds])
        minus = values - [losses[ORDERS[0], seed] for seed in seeds]
        rows.append(
            (
                f"`--packing-order {order}`",
                " ".join(f"{value:.4f}" for value in values),
                f"{values.mean():.4f}",
                f"{values.std(ddof=1):.4f}" if len(seeds) > 1 else "",
                f"{minus.mean():+.4f}",
            )
        )
    return table(
        ("order", "held-out loss by seed", "mean", "sd over seeds", "mean minus random"), rows
    )


def main() -> None:
    """Go on, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path(".study/orders"), metavar="DIR")
    parser.add_argument("--documents", type=int, default=600, help="to train on")
    parser.add_argument("--validation", type=int, default=100, help="documents to measure on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    corpus = prepare(args.folder, args.documents + args.validation, VOCABULARY)
    comment = f"python -m benchmarks.study.orders {' '.join(sys.argv[1:])}"
    for seed in range(1, args.seeds + 1):
        for order in ORDERS:
            done = {(one.order, one.seed) for one in read_results(args.csv, Ordered)}
            if (order, seed) not in done:
                ordered = run_one(order, seed, corpus, args.documents, args.validation, args.epochs)
                append_result(args.csv, ordered, comment)
    console.print(orders_table(args.csv))


if __name__ == "__main__":
    main()
