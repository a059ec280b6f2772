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
    PP 4    time of a step of four pipeline stages / that of a step of equal micro-batches

All are 1 or 0 where no rank waits and batches are alike.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from megatron_packing import plan_packs
from megatron_packing.flops.model import WorkModel
from megatron_packing.flops.models import MODELS as SHAPES
from megatron_packing.planning.rows import Rows, rows_of_plan
from megatron_packing.simulate.deal import DEALINGS, deal_epoch
from megatron_packing.simulate.waiting import measure_waiting

BATCH = 64
RANKS = 16
STAGES = 4
ROWS = (8_192, 32_768, 131_072)
SEED = 0
ORDERS = {"random": "random", "balanced": "random, balanced", "even": "even"}
MODELS = {
    "8B": SHAPES["8b"].work_model(),
    "attention": WorkModel(per_token=0, per_squared_length=1),
}


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
    step_over_equal: float


def make_rows(lengths: NDArray[np.integer] | None, row: int) -> Rows:
    """The packs of the lengths."""
    if lengths is None:
        lengths = np.random.default_rng(SEED).lognormal(7.0, 1.6, 1_000_000).astype(np.int64)
    lengths = lengths.astype(np.int64).clip(1, row)
    return rows_of_plan(plan_packs(lengths, row, seed=SEED), lengths)


def measure(lengths: NDArray[np.integer] | None, row: int) -> list[Result]:
    """Every order, for every model."""
    rows = make_rows(lengths, row)
    results = []
    for name, model in MODELS.items():
        for dealing in DEALINGS:
            dealt = deal_epoch(
                dealing,
                rows,
                num_ranks=RANKS,
                pipelined=True,
                global_batch_size=BATCH,
                model=model,
                seed=SEED,
                most_steps=len(rows),
            )
            found = measure_waiting(rows, dealt, model, pipeline=STAGES)
            results.append(
                Result(
                    sequence_length=row,
                    model=name,
                    order=ORDERS[dealing],
                    batches=len(dealt),
                    rank=found.slowest_rank,
                    sync=found.slowest_micro_batch,
                    idle_attention=found.idle_attention,
                    spread=found.spread_of_steps,
                    step_over_equal=found.step_over_equal,
                )
            )
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
        *("row", "model", "order", "steps", "rank", "sync", "ABR", "spread", f"PP {STAGES}"),
        title=f"steps of {BATCH} packs on {RANKS} ranks",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # 80 columns hold it
    )
    for result in results:
        table.add_row(
            f"{result.sequence_length:,}",
            *(result.model, result.order, f"{result.batches:,}"),
            *(f"{result.rank:.4f}", f"{result.sync:.4f}"),
            *(f"{result.idle_attention:.4f}", f"{result.spread:.4f}"),
            f"{result.step_over_equal:.4f}",
        )
    Console().print(table)
    if args.json is not None:
        write_json(args.json, [asdict(result) for result in results])


if __name__ == "__main__":
    main()
