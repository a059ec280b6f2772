# SPDX-License-Identifier: Apache-2.0
"""Plans the micro-batches of one step, here and by verl's own functions.

    python benchmarks/plan_step.py [--verl verl-0.9.1-py3-none-any.whl] [--json FILE]

Lengths are like rollouts: lognormal(8.2, 0.8), cut to the budget of 32,768 tokens. Work is that of
a 7B model as verl counts it: 24,576 * length + length squared.

"sync" is the sum over micro-batches of the slowest rank's work, over the mean work of a rank;
"rank" the work of the rank with the most, over that mean; "batches" the micro-batches of a rank;
"budget" the share of it that the fullest micro-batch takes. Milliseconds are those of the
processor, the least of some runs. For verl they are of get_seqlen_balanced_partitions over all
ranks and of rearrange_micro_batches on one rank, as every rank runs these for itself; the number of
micro-batches is then raised until all ranks agree, as verl's ranks do by a reduction.
"""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from megatron_packing import plan_step

BUDGET = 32_768
WORK = (24_576.0, 1.0)
STEPS = ((512, 8), (512, 4), (8_192, 64), (8_192, 16))
"""Documents and ranks."""
Ranks = list[list[list[int]]]
"""Of each rank its micro-batches: lists of documents."""


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
    work = (WORK[0] + WORK[1] * lengths) * lengths
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
    """The least of some runs."""
    times = []
    for _ in range(runs):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times) * 1e3


def here(lengths: NDArray[np.int64], num_ranks: int) -> Figures:
    """Plan with this package."""
    plan = plan_step(lengths, budget=BUDGET, num_ranks=num_ranks, work=WORK)
    took = cpu_milliseconds(
        lambda: plan_step(lengths, budget=BUDGET, num_ranks=num_ranks, work=WORK), 50
    )
    ranks = [[batch.tolist() for batch in rank] for rank in plan.micro_batches]
    return judge("megatron-packing", lengths, ranks, took, plan.lower_bound)


def load_verl(wheel: Path) -> SimpleNamespace:
    """Load verl's module of length balancing from its wheel.

    The packages that it imports for other functions (ray, tensordict) are replaced by names.
    """
    stand_ins = {
        "verl": {},
        "verl.protocol": {"DataProto": object},
        "verl.utils": {},
        "verl.utils.tensordict_utils": {"index_select_tensor_dict": lambda _batch, chosen: chosen},
        "verl.utils.device": {"get_device_name": lambda: "cpu"},
    }
    for name, names in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(names)
        sys.modules[name] = module
    sys.modules["verl.utils"].tensordict_utils = sys.modules["verl.utils.tensordict_utils"]
    source = zipfile.ZipFile(wheel).read("verl/utils/seqlen_balancing.py")
    namespace: dict[str, Any] = {"__name__": "verl.utils.seqlen_balancing"}
    exec(compile(source, f"{wheel}/seqlen_balancing.py", "exec"), namespace)
    return SimpleNamespace(**namespace)


def verl_plans(verl: SimpleNamespace, lengths: NDArray[np.int64], num_ranks: int) -> Figures:
    """Plan with verl."""
    import torch

    work = ((WORK[0] + WORK[1] * lengths) * lengths).astype(np.int64).tolist()

    def deal() -> list[list[int]]:
        return verl.get_seqlen_balanced_partitions(work, num_ranks, equal_size=True)

    def batch_of(documents: list[int]) -> dict[str, Any]:
        rows = [torch.zeros(int(lengths[document]), dtype=torch.int8) for document in documents]
        return {"input_ids": torch.nested.nested_tensor(rows, layout=torch.jagged)}

    shares = deal()
    batches = [batch_of(share) for share in shares]
    count = 1
    while True:
        split = [
            verl.rearrange_micro_batches(batch, BUDGET, min_num_micro_batch=count)[1]
            for batch in batches
        ]
        most = max(len(rank) for rank in split)
        if most == min(len(rank) for rank in split):
            break
        count = most
    took = cpu_milliseconds(deal, 3) + cpu_milliseconds(
        lambda: verl.rearrange_micro_batches(batches[0], BUDGET, min_num_micro_batch=count), 3
    )
    ranks = [
        [[share[i] for i in batch] for batch in rank]
        for share, rank in zip(shares, split, strict=True)
    ]
    bound = -(-int(lengths.sum()) // BUDGET)
    return judge("verl 0.9.1", lengths, ranks, took, -(-bound // num_ranks))


def describe(figures: list[Figures]) -> Table:
    """A line for each planner and step."""
    table = Table("documents", "ranks")
    table.add_column("planner", no_wrap=True)
    for name in ("CPU ms", "rank", "sync", "batches", "bound", "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(
            f"{figure.documents:,}",
            f"{figure.ranks}",
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
    parser = argparse.ArgumentParser(description="Plan one step, here and by verl.")
    parser.add_argument("--verl", type=Path, help="verl's wheel")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    verl = None if args.verl is None else load_verl(args.verl)
    figures = []
    for count, num_ranks in STEPS:
        lengths = np.random.default_rng(1).lognormal(8.2, 0.8, count)
        lengths = lengths.astype(np.int64).clip(32, BUDGET)
        figures.append(here(lengths, num_ranks))
        if verl is not None:
            figures.append(verl_plans(verl, lengths, num_ranks))
    Console().print(describe(figures))
    if args.json:
        write_json(args.json, [asdict(figure) for figure in figures])


if __name__ == "__main__":
    main()
