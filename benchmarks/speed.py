# SPDX-License-Identifier: Apache-2.0
"""Times planning beside other packers, in one run, on lengths like those of conversations.

    python benchmarks/speed.py [--large] [--huge] [--documents N] [--json FILE]

Each packer is called as its users call it, on the input that it reads fastest (a list for
lightbinpack), and builds the result it builds. Calls take turns, and the least of --repeats is
printed with its ratio to ours. Ours deals documents to packs at random; the others do not. "core"
is lightbinpack's C++ function alone, built from its source (lightbinpack_core.py). Peers that are
not installed are left out; the extra `benchmark` installs them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightbinpack_core
import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from megatron_packing import plan_packs

console = Console()
Core = Callable[[NDArray[Any], int], float]


@dataclass(frozen=True)
class LengthSet:
    """Documents with lognormal lengths, cut to the row."""

    num_documents: int
    mean: float
    sigma: float
    row: int

    def make(self, dtype: str = "int32", seed: int = 0) -> NDArray[Any]:
        """Draw the lengths, in place and piece by piece."""
        random = np.random.default_rng(seed)
        lengths = np.empty(self.num_documents, dtype)
        for start in range(0, len(lengths), 1 << 20):
            piece = lengths[start : start + (1 << 20)]
            piece[:] = random.lognormal(self.mean, self.sigma, len(piece)).clip(1, self.row)
        return lengths


SETS = [
    LengthSet(326_000, 6.2, 1.0, 4096),
    LengthSet(1_200_000, 6.3, 1.35, 8192),
    LengthSet(10_000_000, 6.3, 1.35, 8192),
]
LARGE = LengthSet(100_000_000, 6.3, 1.35, 8192)
HUGE = LengthSet(1_000_000_000, 6.3, 1.35, 8192)


def find_peers() -> dict[str, Callable[[Any, int], Any]]:
    """Other packers that are installed, as functions of lengths and row that give packs."""
    peers: dict[str, Callable[[Any, int], Any]] = {}
    if importlib.util.find_spec("lightbinpack"):
        import lightbinpack

        peers["lightbinpack obfd"] = lightbinpack.obfd
    if importlib.util.find_spec("seqpacker"):
        import seqpacker

        peers["seqpacker obfd"] = lambda lengths, row: seqpacker.pack_sequences(
            lengths, row, strategy="obfd"
        )
    return peers


def check_ours(lengths: NDArray[Any], row: int) -> int:
    """Check a plan and give its packs."""
    plan = plan_packs(lengths, row)
    if not (np.bincount(plan.document_ids, minlength=len(lengths)) == 1).all():
        raise AssertionError("a document is not there exactly once")
    filled = np.add.reduceat(lengths[plan.document_ids].astype(np.int64), plan.pack_offsets[:-1])
    if filled.max() > row:
        raise AssertionError("a pack is overfull")
    return plan.num_packs


def compare(length_set: LengthSet, repeats: int, core: Core | None) -> dict[str, Any]:
    """Time ours and the peers in turns."""
    lengths = length_set.make()
    row = length_set.row
    packers: dict[str, Callable[[Any, int], Any]] = {"ours": plan_packs, **find_peers()}
    inputs = {name: lengths if name == "ours" else lengths.tolist() for name in packers}
    # Peers of over a second a call are asked less often.
    seconds: dict[str, list[float]] = {name: [] for name in packers}
    packs = {"ours": check_ours(lengths, row)}
    for _ in range(repeats):
        for name, pack in packers.items():
            if len(seconds[name]) >= 3 and min(seconds[name]) > 1:
                continue
            started = time.perf_counter()
            result = pack(inputs[name], row)
            seconds[name].append(time.perf_counter() - started)
            if name != "ours" and name not in packs:
                flat = [document for documents in result for document in documents]
                if len(flat) != len(lengths) or len(set(flat)) != len(flat):
                    raise AssertionError(f"{name} does not hold each document once")
                if max(lengths[documents].sum() for documents in result) > row:
                    raise AssertionError(f"a pack of {name} is overfull")
                packs[name] = len(result)
            del result
        if core is not None:
            seconds.setdefault("lightbinpack core", []).append(core(lengths, row))
    best = {name: min(times) for name, times in seconds.items()}
    ours = best["ours"]
    return {
        "documents": length_set.num_documents,
        "row": row,
        "seconds": best,
        "packs": packs,
        "ratio": {name: value / ours for name, value in best.items() if name != "ours"},
    }


def time_alone(length_set: LengthSet) -> dict[str, Any]:
    """Time ours once, on uint16 lengths, and say how much memory it took."""
    lengths = length_set.make("uint16")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    plan = plan_packs(lengths, length_set.row)
    seconds = time.perf_counter() - started
    arrays = plan.document_ids.nbytes + plan.pack_offsets.nbytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "documents": length_set.num_documents,
        "row": length_set.row,
        "seconds": {"ours": seconds},
        "packs": {"ours": plan.num_packs},
        "lower_bound": plan.lower_bound,
        "peak_gib": peak / 2**20,
        "bytes_per_document_beyond_the_result": ((peak - before) * 1024 - arrays) / len(lengths),
        "ratio": {},
    }


def describe(results: list[dict[str, Any]]) -> Table:
    """A line for each set."""
    names = sorted({name for result in results for name in result["ratio"]})
    table = Table("documents", "row", "ours, s", *(f"{name}, s (times ours)" for name in names))
    table.add_column("memory")
    for result in results:
        memory = ""
        if "peak_gib" in result:
            extra = result["bytes_per_document_beyond_the_result"]
            memory = f"{result['peak_gib']:.1f} GiB, {extra:.1f} B a document beyond the result"
        table.add_row(
            f"{result['documents']:,}",
            f"{result['row']:,}",
            f"{result['seconds']['ours']:.4f}",
            *(
                f"{result['seconds'][name]:.4f} ({result['ratio'][name]:.1f})"
                if name in result["ratio"]
                else ""
                for name in names
            ),
            memory,
        )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time planning beside other packers.")
    parser.add_argument("--large", action="store_true", help="also 100 million documents")
    parser.add_argument("--huge", action="store_true", help="also a billion; needs 24 GiB")
    parser.add_argument("--documents", type=int, help="one set of so many, instead")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        write_json(args.json, [time_alone(LengthSet(args.documents, 6.3, 1.35, 8192))])
        return
    sets = [LengthSet(args.documents, 6.2, 1.0, 4096)] if args.documents else SETS
    with tempfile.TemporaryDirectory() as folder:
        core = lightbinpack_core.build(Path(folder)) if find_peers() else None
        results = [compare(length_set, args.repeats, core) for length_set in sets]
    for wanted, length_set in ((args.large, LARGE), (args.huge, HUGE)):
        if wanted:  # in a process of its own, whose memory is all for this
            command = [sys.executable, __file__, "--alone", "--json", "/dev/stdout"]
            command += ["--documents", str(length_set.num_documents)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results += json.loads(output)["results"]
    if not find_peers():
        console.print("no peers are installed: pip install '.[benchmark]'", markup=False)
    console.print(describe(results))
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
