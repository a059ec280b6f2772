# SPDX-License-Identifier: Apache-2.0
"""Counts packs over the lower bound, on many seeds of several length sets.

    python benchmarks/quality.py [--seeds N] [--effort high] [--sets a f ...]
                                 [--lengths FILE.npy ...] [--json FILE]

Chat-like sets are lognormal, cut to the row: a to c (6.2, 1.0) with 69,000, 326,000 and 1.2 million
documents at 4096, d (6.3, 1.35) with 1.2 million at 8192. f is hard for every order of lengths:
300,000 at 4096, 40% in (1/2, 1], 30% in (1/3, 1/2] and 30% in (1/4, 1/3] of the row. g is uniform,
300,000 in 1..4096. Files of lengths are packed at 2048, 4096 and 8192, longer documents split.
"Over" is packs less the plan's own lower bound; FFD is first-fit decreasing, its mean.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from megatron_packing import plan_packs


def chat_like(count: int, mean: float, sigma: float, row: int, seed: int) -> NDArray[np.int32]:
    """Lognormal lengths, cut to the row."""
    random = np.random.default_rng(seed)
    return random.lognormal(mean, sigma, count).astype(np.int32).clip(1, row)


def adversarial(count: int, row: int, seed: int) -> NDArray[np.int32]:
    """Lengths over a quarter of the row."""
    random = np.random.default_rng(seed)
    kind = random.choice(3, count, p=[0.4, 0.3, 0.3])
    low = np.array([row // 2, row // 3, row // 4])[kind] + 1
    high = np.array([row, row // 2, row // 3])[kind] + 1
    return random.integers(low, high).astype(np.int32)


def make(name: str, seed: int, scale: float) -> tuple[NDArray[np.int32], int]:
    """The lengths of a set and its row."""
    if name in "abc":
        count = {"a": 69_000, "b": 326_000, "c": 1_200_000}[name]
        return chat_like(int(count * scale), 6.2, 1.0, 4096, seed), 4096
    if name == "d":
        return chat_like(int(1_200_000 * scale), 6.3, 1.35, 8192, seed), 8192
    if name == "f":
        return adversarial(int(300_000 * scale), 4096, seed), 4096
    random = np.random.default_rng(seed)
    return random.integers(1, 4097, int(300_000 * scale)).astype(np.int32), 4096


def measure(lengths: NDArray[Any], row: int, effort: str) -> dict[str, Any]:
    """Packs over the bound by the strategy optimal and by first-fit decreasing."""
    started = time.perf_counter()
    plan = plan_packs(lengths, row, effort=effort, overlong="split")  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    decreasing = plan_packs(lengths, row, strategy="first_fit_decreasing", overlong="split")
    return {
        "bound": plan.lower_bound,
        "optimal": plan.num_packs - plan.lower_bound,
        "first_fit_decreasing": decreasing.num_packs - plan.lower_bound,
        "seconds": seconds,
    }


def describe(results: list[dict[str, Any]]) -> Table:
    """A line for each set."""
    table = Table(
        *("set", "plans", "bound met", "most over", "mean over", "worst, %"),
        *("FFD over", "median s"),
    )
    for result in results:
        plans = result["plans"]
        over = [plan["optimal"] for plan in plans]
        share = [100 * plan["optimal"] / plan["bound"] for plan in plans]
        table.add_row(
            result["set"],
            f"{len(plans)}",
            f"{sum(packs == 0 for packs in over) / len(plans):.0%}",
            f"{max(over)}",
            f"{np.mean(over):.2f}",
            f"{max(share):.4f}",
            f"{np.mean([plan['first_fit_decreasing'] for plan in plans]):.2f}",
            f"{np.median([plan['seconds'] for plan in plans]):.3f}",
        )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Count packs over the lower bound.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--effort", choices=["default", "high"], default="default")
    parser.add_argument("--sets", nargs="*", default=list("abcdfg"), choices=list("abcdfg"))
    parser.add_argument("--lengths", nargs="*", type=Path, default=[])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the documents")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = []
    for name in args.sets:
        plans = [measure(*make(name, seed, args.scale), args.effort) for seed in range(args.seeds)]
        results.append({"set": name, "effort": args.effort, "plans": plans})
    for path in args.lengths:
        lengths = np.load(path, allow_pickle=False)
        plans = [measure(lengths, row, args.effort) for row in (2048, 4096, 8192)]
        results.append(
            {"set": path.stem.removeprefix("lengths_"), "effort": args.effort, "plans": plans}
        )
    Console().print(describe(results))
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
