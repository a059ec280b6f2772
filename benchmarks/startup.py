# SPDX-License-Identifier: Apache-2.0
"""What the start of a run costs each rank: seconds, operations on files, private memory.

    python benchmarks/startup.py [--corpora 1 30 300] [--documents 1e6] [--ranks 1000]
        [--latency 0.002] [--kinds recorded unrecorded] [--folder DIR] [--json FILE]

The tokens of the corpora are sparse files, and all have the same
``.idx`` and the same packs, by hard links, under fingerprints of their own. So the page cache is
warm, as where the ranks of a node start one after another. Of more than a million documents a
recorded corpus and its packs are sparse files too, because the start does not read them.

The first rank opens and checks everything and hands on what it found; another rank opens what was
handed on. Both build Megatron's datasets, of one blend. "recorded" corpora have their fingerprint
in their record, and given indexes; "unrecorded" ones are read by the first rank, and their indexes
were made before. Both ranks are started once more with a file server that is far away: each
operation takes 2 ms longer. The last rank of many has started when the first one is done and it has
opened its own files; the first rank hands on its text at 1 GB/s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_json
from rich.console import Console
from rich.table import Table

from megatron_packing.corpus.corpus import Corpus, corpus_record_path
from megatron_packing.corpus.indexed_dataset import (
    DTYPE_CODES,
    HEADER,
    MAGIC,
    VERSION,
    data_path,
    index_path,
    write_index,
)
from megatron_packing.corpus.known_files import KnownFiles, KnownPair
from megatron_packing.index.array_file import array_path
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.manifest import MANIFEST, Manifest
from megatron_packing.index.pack_index import HASHED_BYTES, PackIndex
from megatron_packing.planning.settings import PlanSettings

ROW = 4096
HERE = Path(__file__).parent
MOST_REAL = 1_000_000
PER_SEGMENT = ("document_ids", "places_by_length")
STORE_BYTES_A_SECOND = 1e9
console = Console(highlight=False)


def make_corpora(folder: Path, count: int, documents: int, recorded: bool) -> list[str]:
    """Make corpora of so many documents each, and a pack index of each."""
    is_read = not recorded or 8 * documents <= HASHED_BYTES  # 8 bytes a document
    real = documents if is_read else MOST_REAL
    lengths = np.random.default_rng(0).integers(100, 1500, real, np.int32)
    first = folder / "corpus"
    folder.mkdir(parents=True)
    write_index(index_path(first), np.dtype(np.int32), lengths)
    with data_path(first).open("wb") as file:
        file.truncate(4 * int(lengths.sum(dtype=np.int64)))
    corpus_record_path(first).write_text(json.dumps({"largest_token": 0}))
    corpus = Corpus(first)
    settings = PlanSettings(strategy="greedy", sequence_length=ROW, seed=1)
    packs = build_pack_index(corpus, settings, folder / "corpus_packs")
    files = corpus.known().files
    manifest = packs.manifest
    if real < documents:
        files, manifest = stretch(first, files, packs, documents)
    prefixes = []
    for number in range(count):
        prefix = folder / f"corpus{number:03}"
        fingerprint = f"sha256:{number:064x}" if recorded else corpus.fingerprint
        for of in (index_path, data_path):
            os.link(of(first), of(prefix))
        record: dict[str, Any] = {"largest_token": 0}
        if recorded:
            record["files"] = replace(files, fingerprint=fingerprint).as_json()
        corpus_record_path(prefix).write_text(json.dumps(record))
        place = prefix.with_name(f"{prefix.name}_packs")
        place.mkdir()
        for path in packs.path.glob("*.npy"):
            os.link(path, place / path.name)
        reference = replace(manifest.corpus, fingerprint=fingerprint, prefix=str(prefix))
        (place / MANIFEST).write_text(replace(manifest, corpus=reference).as_json())
        prefixes.append(str(prefix))
    return prefixes


def stretch(
    prefix: Path, files: KnownFiles, packs: PackIndex, documents: int
) -> tuple[KnownFiles, Manifest]:
    """Make sparse files of many documents out of real ones, for starts that do not read them."""
    times = documents // files.tokens.num_documents
    documents = times * files.tokens.num_documents
    code = DTYPE_CODES[np.dtype(np.int32)]
    header = HEADER.pack(MAGIC, VERSION, code, documents, documents + 1)
    tokens = KnownPair(
        data_bytes=times * files.tokens.data_bytes,
        index_bytes=len(header) + 12 * documents + 8 * (documents + 1),
        index_header=header.hex(),
        num_documents=documents,
    )
    index_path(prefix).write_bytes(header)
    os.truncate(index_path(prefix), tokens.index_bytes)
    os.truncate(data_path(prefix), tokens.data_bytes)
    figures = replace(packs.figures, num_packs=times * len(packs))
    lengths = {"pack_offsets": figures.num_packs + 1} | dict.fromkeys(PER_SEGMENT, documents)
    arrays = dict(packs.manifest.arrays)
    for name, length in lengths.items():
        arrays[name] = replace(arrays[name], shape=(length,))
        dtype = np.dtype(arrays[name].dtype)
        with array_path(packs.path, name).open("wb") as file:
            form = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
            np.lib.format.write_array_header_1_0(file, form)
            file.truncate(file.tell() + length * dtype.itemsize)
    corpus = replace(packs.corpus, num_documents=documents)
    manifest = replace(packs.manifest, corpus=corpus, figures=figures, arrays=arrays)
    return replace(files, tokens=tokens), manifest


def start(
    library: Path,
    folder: Path,
    role: str,
    blend: list[str],
    flags: list[str],
    text: str = "",
    delay: float = 0.0,
) -> tuple[dict[str, Any], str]:
    """Start one rank; return its figures and what it hands on."""
    process = subprocess.run(
        [sys.executable, HERE / "startup_rank.py", folder, role, " ".join(blend), *flags],
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "COUNT_FILES_IN": str(folder),
            "DELAY_FILES": str(delay),
            "OMP_NUM_THREADS": "1",
        },
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"error: {process.stderr[-3000:]}")
    figures, _, handed_on = process.stdout.partition("\n")
    return json.loads(figures), handed_on


def operations(figures: dict[str, Any]) -> int:
    """Count operations that ask a file server."""
    return sum(figures[name] for name in ("opened", "looked at", "listed", "reads"))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpora", type=int, nargs="+", default=[1, 30, 300])
    parser.add_argument("--documents", type=float, default=1e6, help="of each corpus")
    parser.add_argument("--kinds", nargs="+", default=["recorded"])
    parser.add_argument("--ranks", type=int, default=1000)
    parser.add_argument(
        "--latency", type=float, default=0.002, help="seconds of an operation far away; 0: none is"
    )
    parser.add_argument("--folder", type=Path, help="where corpora are made (default: /tmp)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.folder is not None and not args.folder.is_dir():
        parser.error(f"--folder is {args.folder}, which is no folder; make it first")
    table = Table("corpora", "rank", "s", "CPU s", "far s", "files", "read", "private")
    table.add_column(f"last of {args.ranks:,}")
    results = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        library = Path(name) / "count_files.so"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "count_files.c", "-ldl"]
        subprocess.run(command, check=True)
        for kind in args.kinds:
            for count in args.corpora:
                folder = Path(name) / f"{kind}{count}"
                recorded = kind == "recorded"
                blend = make_corpora(folder, count, round(args.documents), recorded)
                flags = ["--given"] if recorded else []
                found = measure(library, folder, blend, flags, args)
                results.append({"kind": kind, "corpora": count, **found})
                for role in ("first", "other"):
                    figures = found[role]
                    table.add_row(
                        f"{count} {kind}" if role == "first" else "",
                        role,
                        f"{figures['seconds']:.2f}",
                        f"{figures['processor seconds']:.2f}",
                        f"{figures['seconds far away']:.2f}",
                        f"{operations(figures):,}",
                        f"{figures['bytes read'] / 1e6:.1f} MB",
                        f"{figures['private bytes'] / 1e6:.1f} MB",
                        f"{found['last rank']:.1f} s" if role == "other" else "",
                    )
                shutil.rmtree(folder)
    console.print(table)
    if args.json:
        write_json(args.json, results)


def measure(
    library: Path, folder: Path, blend: list[str], flags: list[str], args: argparse.Namespace
) -> dict[str, Any]:
    """Start the first rank, once to make what it caches, and another one; then both far away."""
    start(library, folder, "first", blend, flags)
    first, text = start(library, folder, "first", blend, flags)
    other, _ = start(library, folder, "other", blend, flags, text)
    far = [first["seconds"], other["seconds"]]
    if args.latency > 0:
        far = [
            start(library, folder, role, blend, flags, text, args.latency)[0]["seconds"]
            for role in ("first", "other")
        ]
    first["seconds far away"], other["seconds far away"] = far
    last = sum(far) + args.ranks * len(text) / STORE_BYTES_A_SECOND
    return {"first": first, "other": other, "last rank": last}


if __name__ == "__main__":
    main()
