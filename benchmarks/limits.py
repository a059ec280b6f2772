# SPDX-License-Identifier: Apache-2.0
"""Plans where planning is hardest: the longest rows, very many documents of one length.

    python benchmarks/limits.py [--scale S] [--cases NAME ...] [--json FILE]

Each case runs twice in a process of its own: once to its end, for its CPU seconds (of all threads)
and the peak of its memory, and once with Ctrl-C sent after half of its time, for the CPU seconds
that it goes on for after that.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from megatron_packing import plan_packs

LONGEST_ROW = 1 << 26


@dataclass(frozen=True, slots=True)
class Case:
    """What is planned."""

    name: str
    documents: int
    shortest: int
    longest: int
    sequence_length: int
    options: dict[str, Any]

    def lengths(self, scale: float) -> NDArray[np.int32]:
        """Uniform lengths, shape ``(documents * scale,)``."""
        count = max(2, round(self.documents * scale))
        random = np.random.default_rng(0)
        return random.integers(self.shortest, self.longest + 1, count, dtype=np.int32)


def cases() -> list[Case]:
    """Kinds of lengths that ask most of the search for exact fits, of the dealing, of memory."""
    half, third = LONGEST_ROW // 2, LONGEST_ROW // 3
    return [
        Case("half a row", 20_000, half - half // 50, half + half // 50, LONGEST_ROW, {}),
        Case("a third of a row", 20_000, third - third // 20, third + third // 20, LONGEST_ROW, {}),
        Case("up to half a row", 20_000, 1, half, LONGEST_ROW, {}),
        Case("best fit", 1_000, 1, LONGEST_ROW, LONGEST_ROW, {"strategy": "best_fit_decreasing"}),
        Case("one length", 100_000_000, 100, 100, 4096, {}),
        Case("first fit", 60_000_000, 1, 4000, 4096, {"strategy": "first_fit_shuffle"}),
        Case("random", 60_000_000, 1, 4000, 4096, {"strategy": "random"}),
        Case("split", 2_000_000, 100_001, 100_001, 4096, {"overlong": "split"}),
    ]


@dataclass(frozen=True, slots=True)
class Result:
    """One case."""

    case: str
    documents: int
    sequence_length: int
    packs: int
    lower_bound: int
    cpu_seconds: float
    peak_mib: float
    """Of the process, its array of lengths among it."""
    cpu_seconds_after_interrupt: float


def run(case: Case, scale: float, interrupt_after: float | None, results: Connection) -> None:
    """Plan a case in this process; send its figures, or how long it went on after Ctrl-C."""
    lengths = case.lengths(scale)
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.process_time())
        os.kill(os.getpid(), signal.SIGINT)

    timer = None
    if interrupt_after is not None:
        timer = threading.Timer(interrupt_after, interrupt)
        timer.start()
    started, started_cpu = time.perf_counter(), time.process_time()
    try:
        plan = plan_packs(lengths, case.sequence_length, **case.options)
    except KeyboardInterrupt:
        results.send(time.process_time() - sent[0])
        return
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    if timer is not None:  # it ended first
        timer.cancel()
        results.send(0.0)
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.send((plan.num_packs, plan.lower_bound, seconds, cpu_seconds, peak))


def in_a_process(case: Case, scale: float, interrupt_after: float | None) -> Any:
    """What ``run`` sends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run, args=(case, scale, interrupt_after, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        sys.exit(f"{case.name} did not end well")
    finally:
        process.join()


def measure(case: Case, scale: float) -> Result:
    """Run a case twice."""
    packs, lower_bound, seconds, cpu_seconds, peak = in_a_process(case, scale, None)
    after = in_a_process(case, scale, seconds / 2)
    return Result(
        case=case.name,
        documents=len(case.lengths(scale)),
        sequence_length=case.sequence_length,
        packs=packs,
        lower_bound=lower_bound,
        cpu_seconds=cpu_seconds,
        peak_mib=peak,
        cpu_seconds_after_interrupt=after,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the documents")
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in cases()])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    chosen = [case for case in cases() if not args.cases or case.name in args.cases]
    results = [measure(case, args.scale) for case in chosen]
    table = Table("case", "documents", "packs", "above bound", "CPU s", "MiB", "after Ctrl-C")
    for result in results:
        table.add_row(
            result.case,
            f"{result.documents:,}",
            f"{result.packs:,}",
            f"{result.packs - result.lower_bound:,}",
            f"{result.cpu_seconds:.2f}",
            f"{result.peak_mib:,.0f}",
            f"{result.cpu_seconds_after_interrupt:.2f}",
        )
    Console().print(table)
    if args.json:
        write_json(args.json, json.loads(json.dumps([asdict(result) for result in results])))


if __name__ == "__main__":
    main()
