# SPDX-License-Identifier: Apache-2.0
"""Plans the micro-batches of one step, here and by other trainers' own functions.

    python benchmarks/plan_step.py [--verl WHEEL] [--slime CHECKOUT] [--nemo-rl CHECKOUT]
        [--megatron-lm CHECKOUT] [--json FILE]

Lengths are like rollouts: lognormal(8.2, 0.8), cut to the budget of 32,768 tokens. Work is that of
a 7B model as verl counts it: 24,576 * length + length squared.

"step" has the documents and the ranks. "rank" is the work of the rank with the most, over the mean
work of a rank; "sync" the sum over micro-batches of the slowest rank's work, over that mean;
"batches" the micro-batches of a rank; "budget" the share of it that the fullest micro-batch takes.
Milliseconds are those of the processor, the least of some runs, of what every rank computes for
itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from step_planners import (
    Planner,
    Ranks,
    megatron_planner,
    nemo_rl_planner,
    slime_planners,
    verl_planner,
    work_of,
)

from megatron_packing import plan_step

BUDGET = 32_768
WORK = (24_576.0, 1.0)
STEPS = ((512, 8), (512, 4), (8_192, 64), (8_192, 16))
"""Documents and ranks."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one planner makes of one step."""

    planner: str
    documents: int
    ranks: int
    milliseconds: float
    rank: float
    sync: float
    micro_batches: int
    """Of each rank."""
    lower_bound: int
    tokens_over_budget: float


def judge(
    planner: str, lengths: NDArray[np.int64], ranks: Ranks, milliseconds: float, bound: int
) -> Figures:
    """Count a plan, whoever made it."""
    work = work_of(lengths, WORK)
    by_batch = np.array([[work[batch].sum() for batch in rank] for rank in ranks])
    mean = by_batch.sum() / len(ranks)
    fullest = max(int(lengths[batch].sum()) for rank in ranks for batch in rank)
    return Figures(
        planner,
        documents=len(lengths),
        ranks=len(ranks),
        milliseconds=milliseconds,
        rank=float(by_batch.sum(axis=1).max() / mean),
        sync=float(by_batch.max(axis=0).sum() / mean),
        micro_batches=by_batch.shape[1],
        lower_bound=bound,
        tokens_over_budget=fullest / BUDGET,
    )


def cpu_milliseconds(function: Callable[[], Any], runs: int) -> float:
    """The least of some runs, fewer if they take seconds."""
    times: list[float] = []
    while len(times) < runs and sum(times) < 1:
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times) * 1e3


def here(lengths: NDArray[np.int64], num_ranks: int) -> tuple[Ranks, list[Callable[[], Any]]]:
    """Plan with this package."""

    def plan() -> Any:
        return plan_step(lengths, budget=BUDGET, num_ranks=num_ranks, work=WORK)

    return [[batch.tolist() for batch in rank] for rank in plan().micro_batches], [plan]


def measure(planner: Planner, lengths: NDArray[np.int64], num_ranks: int, bound: int) -> Figures:
    """Plan with one planner and time it."""
    name, plan = planner
    ranks, parts = plan(lengths, num_ranks)
    runs = 50 if plan is here else 3
    took = sum(cpu_milliseconds(part, runs) for part in parts)
    return judge(name, lengths, ranks, took, bound)


def describe(figures: list[Figures]) -> Table:
    """A line for each planner and step."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # 80 columns hold it
    for name in ("step", "planner"):
        table.add_column(name, no_wrap=True)
    for name in ("CPU ms", "rank", "sync", "batches", "bound", "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(
            f"{figure.documents:,}, {figure.ranks}",
            figure.planner,
            f"{figure.milliseconds:.2f}",
            f"{figure.rank:.4f}",
            f"{figure.sync:.4f}",
            f"{figure.micro_batches}",
            f"{figure.lower_bound}",
            f"{figure.tokens_over_budget:.3f}",
        )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Plan one step, here and by other trainers.")
    parser.add_argument("--verl", type=Path, help="verl's wheel")
    parser.add_argument("--slime", type=Path, help="a checkout of slime")
    parser.add_argument("--nemo-rl", type=Path, help="a checkout of NeMo-RL")
    parser.add_argument("--megatron-lm", type=Path, help="a checkout of Megatron-LM's main branch")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    planners: list[Planner] = [("megatron-packing", here)]
    if args.verl:
        planners.append(verl_planner(args.verl, BUDGET, WORK))
    if args.slime:
        planners.extend(slime_planners(args.slime, BUDGET))
    if args.nemo_rl:
        planners.append(nemo_rl_planner(args.nemo_rl, BUDGET))
    if args.megatron_lm:
        planners.append(megatron_planner(args.megatron_lm, BUDGET))
    figures = []
    for count, num_ranks in STEPS:
        lengths = np.random.default_rng(1).lognormal(8.2, 0.8, count)
        lengths = lengths.astype(np.int64).clip(32, BUDGET)
        bound = -(-int(lengths.sum()) // BUDGET)
        figures += [measure(one, lengths, num_ranks, -(-bound // num_ranks)) for one in planners]
    Console().print(describe(figures))
    if args.json:
        write_json(args.json, [asdict(figure) for figure in figures])


if __name__ == "__main__":
    main()
