# SPDX-License-Identifier: Apache-2.0
"""Counts packs over the lower bound, and over the optimum where it is known, on many length sets.

    python benchmarks/quality.py [--seeds N] [--effort high] [--sets a f triplets ...]
                                 [--lengths FILE.npy ...] [--rows N ...] [--highs SECONDS]
                                 [--max-documents-per-pack N ...] [--scale S] [--json FILE]

length_sets.py says what the sets are. Files of lengths are packed at 2048, 4096 and 8192, longer
documents split. Uniform and chat-like sets and files are planned without a limit of documents per
pack and with one; --max-documents-per-pack names the limits of all sets, 0 for none.

A plan is proven where it meets its own lower bound. The optimum is known by the making of an
instance (triplets, irup, nonirup), or from HiGHS (reference.py), where that proves it within
--highs seconds of the processor. --scale makes large sets smaller.

"packs" and "bound" are means of a line's plans; "above" is packs less the plan's own bound, at
most; FFD is first-fit decreasing, its mean. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import reference
from length_sets import SETS, Instance, Limits
from machine import write_json
from rich.console import Console
from rich.table import Table

from megatron_packing import plan_packs

MOST_LENGTHS = 1500
"""Different lengths that HiGHS is asked about: with more it does not end within a minute."""
FILE_LIMITS = (None, 4, 16)


def find_optimum(instance: Instance, most: int | None, seconds: float) -> tuple[int, int | None]:
    """A lower bound by HiGHS (0 where it has none) and the fewest packs, where they are known."""
    bound, optimum = 0, None
    if seconds > 0 and len(np.unique(instance.lengths % instance.row)) <= MOST_LENGTHS:
        bound, optimum = reference.fewest_packs(instance.lengths, instance.row, most, seconds)
    if optimum is None and most is None:
        optimum = instance.optimum
    return bound, optimum


def measure(instance: Instance, effort: str, most: int | None, highs: float) -> dict[str, Any]:
    """Plan by the strategy optimal and by first-fit decreasing, and ask HiGHS."""
    settings: dict[str, Any] = {"overlong": "split", "max_documents_per_pack": most}
    lengths, row = instance.lengths, instance.row
    started = time.process_time()
    plan = plan_packs(lengths, row, effort=effort, **settings)
    seconds = time.process_time() - started
    decreasing = plan_packs(lengths, row, strategy="first_fit_decreasing", **settings)
    started = time.process_time()
    reference_bound, optimum = find_optimum(instance, most, highs)
    if reference_bound > plan.num_packs or (optimum or plan.lower_bound) < plan.lower_bound:
        raise AssertionError(
            f"{plan.num_packs} packs over a bound of {plan.lower_bound}, but the reference has "
            f"{optimum} packs over a bound of {reference_bound}"
        )
    return {
        "documents": len(lengths),
        "row": row,
        "packs": plan.num_packs,
        "bound": plan.lower_bound,
        "optimal": plan.num_packs - plan.lower_bound,
        "first_fit_decreasing": decreasing.num_packs - plan.lower_bound,
        "seconds": seconds,
        "optimum": optimum,
        "reference_bound": reference_bound,
        "reference_seconds": time.process_time() - started,
    }


def describe(results: list[dict[str, Any]]) -> Table:
    """A line for each set and limit."""
    table = Table("set", "limit", "plans")
    for title in ("packs", "bound", "proven", "above", "worst, %", "FFD above"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("median s", "most s", "optimum known", "above it"):
        table.add_column(title, justify="right")
    for result in results:
        plans = result["plans"]
        over = [plan["optimal"] for plan in plans]
        known = [plan["packs"] - plan["optimum"] for plan in plans if plan["optimum"] is not None]
        table.add_row(
            result["set"],
            "" if result["limit"] is None else f"{result['limit']}",
            f"{len(plans)}",
            *(f"{np.mean([plan[name] for plan in plans]):,.10g}" for name in ("packs", "bound")),
            f"{sum(packs == 0 for packs in over)}",
            f"{max(over)}",
            f"{max(100 * plan['optimal'] / plan['bound'] for plan in plans):.3f}",
            f"{np.mean([plan['first_fit_decreasing'] for plan in plans]):.1f}",
            f"{np.median([plan['seconds'] for plan in plans]):.3f}",
            f"{max(plan['seconds'] for plan in plans):.2f}",
            f"{len(known)}",
            f"{max(known)}" if known else "",
        )
    return table


def lines(args: argparse.Namespace) -> Iterator[tuple[str, Limits, list[Instance]]]:
    """Title, usual limits and instances of each set that was asked for, then of each file."""
    for length_set in (length_set for name in args.sets for length_set in SETS[name]):
        seeds = range(min(args.seeds, length_set.most_seeds))
        drawn = [length_set.draw(np.random.default_rng(seed), args.scale) for seed in seeds]
        yield length_set.title, length_set.limits, list(itertools.chain.from_iterable(drawn))
    for path in args.lengths:
        lengths = np.load(path, allow_pickle=False)
        instances = [Instance(lengths, row) for row in args.rows]
        yield path.stem.removeprefix("lengths_"), FILE_LIMITS, instances


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Count packs over the lower bound.")
    parser.add_argument("--seeds", type=int, default=4, help="of each set; one of the largest")
    parser.add_argument("--effort", choices=["default", "high"], default="default")
    parser.add_argument("--sets", nargs="*", default=[*SETS], choices=[*SETS])
    parser.add_argument("--lengths", nargs="*", type=Path, default=[])
    parser.add_argument("--rows", nargs="+", type=int, default=[2048, 4096, 8192])
    parser.add_argument("--max-documents-per-pack", nargs="+", type=int, help="0: any number")
    parser.add_argument("--highs", type=float, default=60, metavar="SECONDS", help="0: without it")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the documents")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = []
    for title, usual_limits, instances in lines(args):
        for most in args.max_documents_per_pack or usual_limits:
            plans = [measure(one, args.effort, most or None, args.highs) for one in instances]
            result = {"set": title, "limit": most or None, "effort": args.effort, "plans": plans}
            results.append(result)
            if args.json:  # a long run may be stopped
                write_json(args.json, results)
    Console(width=None if sys.stdout.isatty() else 150).print(describe(results))


if __name__ == "__main__":
    main()
