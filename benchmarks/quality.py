# SPDX-License-Identifier: Apache-2.0
"""Counts packs over the lower bound, on many seeds of several length sets.

    python benchmarks/quality.py [--seeds N] [--effort high] [--sets a f triplets ...]
                                 [--lengths FILE.npy ...] [--rows N ...]
                                 [--max-documents-per-pack N ...] [--json FILE]

Chat-like sets are lognormal, cut to the row: a to c (6.2, 1.0) with 69,000, 326,000 and 1.2 million
documents at 4096, d (6.3, 1.35) with 1.2 million at 8192. f is hard for every order of lengths:
300,000 at 4096, 40% in (1/2, 1], 30% in (1/3, 1/2] and 30% in (1/4, 1/3] of the row. g is uniform,
300,000 in 1..4096. Files of lengths are packed at 2048, 4096 and 8192, longer documents split, and
once for each limit of documents per pack.

The others are in the manner of the sets that papers on bin packing use, from own generators, each
seed an instance of every size: uniform and triplets (Falkenauer, Journal of Heuristics 2, 1996),
scholl1 to scholl3 (Scholl, Klein and Juergens, Computers and Operations Research 24, 1997),
schwerin (Schwerin and Waescher, ITOR 4, 1997), hard28 (Schoenfield, 2002), crowded: between a
quarter and half of a row, and wide: between a fifth and 0.7 of it. --max-documents-per-pack plans
these once for each limit too, beside the plans without one.

"Over" is packs less the plan's own lower bound; FFD is first-fit decreasing, its mean. Seconds are
those of the processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from megatron_packing import plan_packs

Instances: TypeAlias = Callable[[np.random.Generator], list[tuple[NDArray[Any], int]]]
"""Makes the lengths and the row of each instance of a set."""


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


def uniform(low: int, high: int, row: int, *counts: int) -> Instances:
    """Makes sets of lengths in low..high, one for each count."""
    return lambda random: [(random.integers(low, high + 1, count), row) for count in counts]


def triplets(random: np.random.Generator) -> list[tuple[NDArray[Any], int]]:
    """Rows of 1,000 that are cut in three, so that nothing may be left of any."""
    instances = []
    for count in (20, 40, 83, 167):
        longest = random.integers(380, 491, count)
        middle = random.integers(250, (1000 - longest) // 2 + 1)
        instances.append((np.concatenate([longest, middle, 1000 - longest - middle]), 1000))
    return instances


def scholl1(random: np.random.Generator) -> list[tuple[NDArray[Any], int]]:
    """Rows of 100 to 150 and lengths of up to 100."""
    return [
        (random.integers(low, 101, count), row)
        for row in (100, 120, 150)
        for low in (1, 20, 30)
        for count in (50, 100, 200, 500)
    ]


def scholl2(random: np.random.Generator) -> list[tuple[NDArray[Any], int]]:
    """Lengths around a third to a ninth of a row of 1,000."""
    return [
        (random.integers(max(1, int(mean * (1 - spread))), int(mean * (1 + spread)) + 1, n), 1000)
        for mean in (1000 / 3, 1000 / 5, 1000 / 7, 1000 / 9)
        for spread in (0.2, 0.5, 0.9)
        for n in (50, 100, 200, 500)
    ]


CLASSIC: dict[str, Instances] = {
    "uniform": uniform(20, 100, 150, 120, 250, 500, 1000),
    "triplets": triplets,
    "scholl1": scholl1,
    "scholl2": scholl2,
    "scholl3": uniform(20_000, 35_000, 100_000, 200),
    "schwerin": uniform(150, 200, 1000, 100, 120),
    "hard28": uniform(1, 800, 1000, 160, 180, 200),
    "crowded512": uniform(129, 255, 512, 1000, 20_000),
    "crowded2048": uniform(513, 1023, 2048, 1000, 20_000, 1_000_000),
    "crowded8192": uniform(2049, 4095, 8192, 1000, 20_000),
    "crowded131072": uniform(32_769, 65_535, 131_072, 1000, 20_000),
    "wide512": uniform(103, 358, 512, 1000, 20_000),
    "wide4096": uniform(820, 2867, 4096, 1000, 20_000),
    "wide32768": uniform(6554, 22_937, 32_768, 1000, 20_000),
}


def measure(
    lengths: NDArray[Any], row: int, effort: str, most: int | None = None
) -> dict[str, Any]:
    """Packs over the bound by the strategy optimal and by first-fit decreasing."""
    settings: dict[str, Any] = {"overlong": "split", "max_documents_per_pack": most}
    started = time.process_time()
    plan = plan_packs(lengths, row, effort=effort, **settings)
    seconds = time.process_time() - started
    decreasing = plan_packs(lengths, row, strategy="first_fit_decreasing", **settings)
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
        *("FFD over", "median s", "most s"),
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
            f"{max(plan['seconds'] for plan in plans):.2f}",
        )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Count packs over the lower bound.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--effort", choices=["default", "high"], default="default")
    names = [*"abcdfg", *CLASSIC]
    parser.add_argument("--sets", nargs="*", default=names, choices=names)
    parser.add_argument("--lengths", nargs="*", type=Path, default=[])
    parser.add_argument("--rows", nargs="+", type=int, default=[2048, 4096, 8192])
    parser.add_argument("--max-documents-per-pack", nargs="+", type=int, default=[None])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the documents")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = []
    for name in args.sets:
        if name in CLASSIC:
            instances = [
                instance
                for seed in range(args.seeds)
                for instance in CLASSIC[name](np.random.default_rng(seed))
            ]
        else:
            instances = [make(name, seed, args.scale) for seed in range(args.seeds)]
        for most in args.max_documents_per_pack:
            plans = [measure(*instance, args.effort, most) for instance in instances]
            title = name if most is None else f"{name}, {most} a pack"
            results.append({"set": title, "effort": args.effort, "plans": plans})
    for path in args.lengths:
        lengths = np.load(path, allow_pickle=False)
        plans = [
            measure(lengths, row, args.effort, most)
            for row in args.rows
            for most in args.max_documents_per_pack
        ]
        results.append(
            {"set": path.stem.removeprefix("lengths_"), "effort": args.effort, "plans": plans}
        )
    Console().print(describe(results))
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
