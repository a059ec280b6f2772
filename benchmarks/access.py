# SPDX-License-Identifier: Apache-2.0
"""Random access to packs: this project's provider beside Megatron-Bridge's Parquet dataset.

    python benchmarks/access.py [--packs N] [--reads N] [--processes N] [--json FILE]

The same packs of 8,192 positions are read in the same random order from the pack index and from
their export, as ``megatron-packing export`` writes it and in groups of 500 rows, as Bridge does.
Each reader has a process of its own; its private memory is what it takes beyond imports, for all
packs and for a tenth of them. Then many processes open the index at one moment.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from machine import write_json
from rich.console import Console
from rich.table import Table

from megatron_packing.corpus.corpus import Corpus, loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.planning.settings import PlanSettings

ROW = 8192
END = 2
BRIDGE_ROWS_OF_GROUP = 500  # write_packed_parquet, megatron/bridge/data/packing/parquet.py
console = Console(highlight=False)


def make_packs(folder: Path, packs: int) -> PackIndex:
    """Chat-like documents of random tokens that fill so many packs."""
    random = np.random.default_rng(0)
    lengths = random.lognormal(np.log(700), 1.0, packs * ROW // 500).astype(np.int64)
    lengths = np.clip(lengths, 2, ROW)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), packs * ROW))]
    folder.mkdir()
    prefix = folder / "corpus"
    with (
        IndexedDatasetWriter(prefix, np.dtype(np.int32)) as tokens,
        IndexedDatasetWriter(loss_mask_prefix(prefix), np.dtype(np.uint8)) as masks,
    ):
        for part in np.array_split(lengths, max(1, len(lengths) // 10_000)):
            tokens.add(random.integers(3, 128_000, part.sum(), np.int32), part)
            masks.add(random.integers(0, 2, part.sum(), np.uint8), part)
    settings = PlanSettings(strategy="optimal", sequence_length=ROW)
    return build_pack_index(Corpus(prefix), settings, folder / "packs")


def export(folder: Path) -> dict[str, Path]:
    """The export of an index, and the same in Bridge's own groups."""
    import pyarrow.parquet as pq

    command = ["export", folder / "packs", "--format", "bridge-parquet", "--end-token", END]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "megatron_packing.cli",
            *map(str, command),
            "--output",
            folder / "x",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    file = pq.ParquetFile(folder / "x" / "packs.idx.parquet")
    large = folder / "bridge.idx.parquet"
    with pq.ParquetWriter(large, file.schema_arrow) as writer:
        for batch in file.iter_batches(BRIDGE_ROWS_OF_GROUP):
            writer.write_batch(batch, row_group_size=BRIDGE_ROWS_OF_GROUP)
    return {"export": folder / "x" / "packs.idx.parquet", "bridge": large}


def open_ours(path: str) -> Any:
    """The provider's dataset."""
    from megatron_packing.bridge.dataset import PackedRowDataset
    from megatron_packing.thd.rows import PackedRows

    index = PackIndex.open(path)
    rows = PackedRows(index=index, corpus=open_source(index), seed=1, new_order_each_epoch=True)
    return PackedRowDataset([rows], 0)


def open_bridges(path: str) -> Any:
    """Bridge's dataset, as it reads packed Parquet."""
    from megatron.bridge.data.packing.parquet import GPTSFTPackedParquetDataset

    return GPTSFTPackedParquetDataset(
        file_path=path,
        tokenizer=SimpleNamespace(eos_id=END, eod=END, space_sensitive=False),
        max_seq_length=ROW,
        pad_to_max_length=True,
        prompt_template="{text} {answer}",
    )


def private_bytes() -> int:
    """Of this process, without the pages of mapped files."""
    information = psutil.Process().memory_info()
    return int(information.rss - information.shared)


def import_readers() -> None:
    """Import what both readers need, before any of them is forked."""
    try:
        import transformer_engine  # noqa: F401
    except ImportError:  # without GPUs Bridge's package is imported as the tests do
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        import megatron.core.models.gpt

        from tests.bridge.absent import prepare_bridge

        prepare_bridge()
    import megatron.bridge.data.packing.parquet  # noqa: F401

    import megatron_packing.bridge.dataset  # noqa: F401


def read(reader: str, path: str, reads: int) -> dict[str, float]:
    """Open packs and collate some of them at random."""
    before, started = private_bytes(), time.perf_counter()
    dataset = (open_ours if reader == "ours" else open_bridges)(path)
    opened = time.perf_counter() - started
    order = np.random.default_rng(2).permutation(len(dataset))[:reads].tolist()
    dataset.collate_fn([dataset[order[0]]])
    started = time.perf_counter()
    for sample in order:
        dataset.collate_fn([dataset[sample]])
    seconds = (time.perf_counter() - started) / len(order)
    return {"open": opened, "read": seconds, "private": private_bytes() - before}


def run_alone(reader: str, path: Path, reads: int) -> dict[str, float]:
    """One reader in a process of its own."""
    context = multiprocessing.get_context("fork")
    figures = context.SimpleQueue()
    kind = "ours" if reader == "ours" else "bridge"
    process = context.Process(target=lambda: figures.put(read(kind, str(path), reads)))
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit(f"error: the reader of {path} ended with {process.exitcode}")
    found: dict[str, float] = figures.get()
    return found


def open_at_once(path: str, processes: int) -> dict[str, float]:
    """Open the index and read a pack in many processes at one moment."""
    context = multiprocessing.get_context("fork")
    start, opened, release = (context.Barrier(processes + 1) for _ in range(3))
    sizes = context.Queue()

    def work(seed: int) -> None:
        start.wait()
        index = PackIndex.open(path)
        corpus = open_source(index)
        segments = index.segments(seed % len(index), corpus.num_tokens)
        for document, first, length in segments:
            corpus.tokens(document, first, first + length).sum()
        opened.wait()
        # Every page of the index, to see whom they belong to.
        for array in (index.document_ids, index.pack_offsets, index.places_by_length):
            int(np.asarray(array).sum())
        release.wait()
        maps = psutil.Process().memory_maps()
        mine = [m for m in maps if m.path.startswith(str(index.path.resolve()))]
        sizes.put((sum(m.rss for m in mine), sum(m.pss for m in mine)))
        release.wait()

    workers = [context.Process(target=work, args=(seed,)) for seed in range(processes)]
    for worker in workers:
        worker.start()
    start.wait()
    started = time.perf_counter()
    opened.wait()
    seconds = time.perf_counter() - started
    release.wait()
    found = [sizes.get() for _ in workers]
    release.wait()
    for worker in workers:
        worker.join()
    resident, proportional = np.array(found).sum(axis=0).tolist()
    return {
        "processes": processes,
        "seconds": seconds,
        "resident_bytes": resident,
        "proportional_bytes": proportional,
        "index_bytes": sum(file.stat().st_size for file in Path(path).glob("*.npy")),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packs", type=int, default=10_000)
    parser.add_argument("--reads", type=int, default=300)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import_readers()
    with tempfile.TemporaryDirectory() as name:
        figures: dict[str, dict[str, dict[str, float]]] = {}
        for size, packs in (("tenth", args.packs // 10), ("all", args.packs)):
            folder = Path(name) / size
            index = make_packs(folder, packs)
            files = {"ours": folder / "packs", **export(folder)}
            figures[size] = {
                reader: run_alone(reader, path, args.reads) for reader, path in files.items()
            }
        at_once = open_at_once(str(folder / "packs"), args.processes)
    table = Table(title=f"{len(index):,} packs of {ROW:,}, a random one", title_justify="left")
    for column in ("", "provider", "Bridge, our export", "Bridge, its own groups"):
        table.add_column(column, justify="left" if not column else "right")
    every = figures["all"]
    readers = ("ours", "export", "bridge")
    for title, cells in (
        ("milliseconds", [f"{1e3 * every[reader]['read']:.2f}" for reader in readers]),
        ("times ours", [f"{every[r]['read'] / every['ours']['read']:.1f}" for r in readers]),
        ("seconds to open", [f"{every[reader]['open']:.3f}" for reader in readers]),
        ("private MB", [f"{every[reader]['private'] / 1e6:.1f}" for reader in readers]),
        ("of a tenth", [f"{figures['tenth'][r]['private'] / 1e6:.1f}" for r in readers]),
    ):
        table.add_row(title, *cells)
    console.print(table)
    console.print(
        f"{args.processes} processes open the index at once in {at_once['seconds']:.2f} s; of its "
        f"{at_once['index_bytes'] / 1e6:.1f} MB they see {at_once['resident_bytes'] / 1e6:.1f} MB "
        f"in {at_once['proportional_bytes'] / 1e6:.1f} MB of memory"
    )
    if args.json:
        write_json(args.json, [{"packs": len(index), "access": figures, "at_once": at_once}])


if __name__ == "__main__":
    main()
