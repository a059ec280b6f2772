"""Times planning, strategy by strategy, on lengths like those of conversations.

    python benchmarks/plan_packs.py [--documents N] [--sequence-length L]

Lengths are lognormal(6.2, 1.0), cut to the row, as of 1.2 million conversations of chat data. The
best of five runs is printed, with what it planned.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from megatron_packing import STRATEGIES, __version__, plan_packs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time planning.")
    parser.add_argument("--documents", type=int, default=1_200_000)
    parser.add_argument("--sequence-length", type=int, default=4096)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    lengths = random.lognormal(6.2, 1.0, args.documents).astype(np.int32)
    lengths = lengths.clip(1, args.sequence_length)
    table = Table(
        "strategy",
        *("seconds", "packs", "utilisation"),
        title=f"{args.documents:,} documents, rows of {args.sequence_length:,}",
        caption=f"megatron-packing {__version__}, {platform.machine()}, numpy {np.__version__}",
    )
    for strategy in STRATEGIES:
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            plan = plan_packs(lengths, args.sequence_length, strategy=strategy)
            seconds.append(time.perf_counter() - started)
        table.add_row(
            strategy, f"{min(seconds):.3f}", f"{plan.num_packs:,}", f"{plan.utilisation:.3%}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
