# SPDX-License-Identifier: Apache-2.0
"""Compares how long ranks wait for each other under the orders of packs and with --packing-balance.

    python benchmarks/balance_steps.py [--lengths FILE.npy] [--json FILE]

Without a file, lengths are lognormal(7.0, 1.6), cut to the row. Packs are those of plan_packs; each
global batch has 64 of them for 16 data-parallel ranks. The model has the layers of an 8B Llama 3;
"attention" alone is the bound of long rows. Figures are means over all batches of an epoch:

    rank    work of the rank with the most / mean: plain data parallelism waits once a step
    sync    sum over micro-batches of the slowest rank's work / mean work of a rank: pipeline,
            expert and fully sharded parallelism wait in every micro-batch
    ABR     share of the time that ranks are idle in a micro-batch, by attention alone
    spread  standard deviation of the work of a batch / mean

All are 1 or 0 where no rank waits and batches are alike.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from megatron_packing import _core, plan_packs
from megatron_packing.flops.model import WorkModel
from megatron_packing.flops.models import MODELS as SHAPES
from megatron_packing.stream.even_order import EvenOrder, EvenSettings
from megatron_packing.stream.order import pack_at

BATCH = 64
RANKS = 16
ROWS = (8_192, 32_768, 131_072)
SEED = 0
MODELS = {
    "8B": SHAPES["8b"].work_model(),
    "attention": WorkModel(per_token=0, per_squared_length=1),
}
Packs = NDArray[np.int64]
"""Packs of each batch: (batches, micro-batches, ranks)."""


@dataclass(frozen=True, slots=True)
class Result:
    """Means over all batches."""

    sequence_length: int
    model: str
    order: str
    batches: int
    rank: float
    sync: float
    idle_attention: float
    spread: float


def squared_lengths(lengths: NDArray[np.integer] | None, row: int) -> NDArray[np.float64]:
    """Sum of the squared segments of each pack, its tail among them."""
    if lengths is None:
        lengths = np.random.default_rng(SEED).lognormal(7.0, 1.6, 1_000_000).astype(np.int64)
    lengths = lengths.astype(np.int64).clip(1, row)
    plan = plan_packs(lengths, row, seed=SEED)
    segments, starts = lengths[plan.document_ids], plan.pack_offsets[:-1]
    tails = row - np.add.reduceat(segments, starts)
    return (np.add.reduceat(np.square(segments), starts) + np.square(tails)).astype(np.float64)


def batches_at_random(count: int) -> Packs:
    """The packs of an epoch in the default order."""
    whole = count // BATCH * BATCH
    packs = np.array([pack_at(sample, count, SEED) for sample in range(whole)])
    return packs.reshape(-1, BATCH // RANKS, RANKS)


def balanced(batches: Packs, work: NDArray[np.float64]) -> Packs:
    """The same batches as --packing-balance deals them."""
    dealt = [
        batch[_core.balance(work[batch].astype(np.int64), RANKS)]
        for batch in batches.reshape(-1, BATCH)
    ]
    return np.array(dealt).reshape(batches.shape)


def batches_of_even_order(work: NDArray[np.float64], model: WorkModel) -> Packs:
    """The packs of an epoch in the even order."""
    settings = EvenSettings(
        ranks=RANKS,
        batch=BATCH,
        per_token=model.per_token,
        per_squared_length=model.per_squared_length,
    )
    order = EvenOrder(work, settings, SEED)
    whole = len(work) // BATCH * BATCH
    packs = np.array([order.pack_at(sample) for sample in range(whole)])
    return packs.reshape(-1, BATCH // RANKS, RANKS)


def judge(
    packs: Packs, work: NDArray[np.float64], squares: NDArray[np.float64]
) -> dict[str, float]:
    """Count how long ranks wait."""
    by_rank, attention = work[packs], squares[packs]
    mean = by_rank.mean(axis=2).sum(axis=1)
    total = by_rank.sum(axis=(1, 2))
    return {
        "rank": float((by_rank.sum(axis=1).max(axis=1) / mean).mean()),
        "sync": float((by_rank.max(axis=2).sum(axis=1) / mean).mean()),
        "idle_attention": float((1 - attention.mean(axis=2) / attention.max(axis=2)).mean()),
        "spread": float(total.std() / total.mean()),
    }


def measure(lengths: NDArray[np.integer] | None, row: int) -> list[Result]:
    """Every order, for every model."""
    squares = squared_lengths(lengths, row)
    at_random = batches_at_random(len(squares))
    results = []
    for name, model in MODELS.items():
        work = model.total(np.full(len(squares), float(row)), squares)
        orders = {
            "random": at_random,
            "random, balanced": balanced(at_random, work),
            "even": batches_of_even_order(work, model),
        }
        for order, packs in orders.items():
            results.append(Result(row, name, order, len(packs), **judge(packs, work, squares)))
    return results


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare how long ranks wait for each other.")
    parser.add_argument("--lengths", type=Path, metavar="FILE.npy")
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    lengths = None if args.lengths is None else np.load(args.lengths, allow_pickle=False)
    results = [result for row in args.rows for result in measure(lengths, row)]
    table = Table(
        *("row", "model", "order", "batches", "rank", "sync", "ABR", "spread"),
        title=f"global batches of {BATCH} packs on {RANKS} ranks",
    )
    for result in results:
        table.add_row(
            f"{result.sequence_length:,}",
            *(result.model, result.order, f"{result.batches:,}"),
            *(f"{result.rank:.4f}", f"{result.sync:.4f}"),
            *(f"{result.idle_attention:.4f}", f"{result.spread:.4f}"),
        )
    Console().print(table)
    if args.json is not None:
        write_json(args.json, [asdict(result) for result in results])


if __name__ == "__main__":
    main()
