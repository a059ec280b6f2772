# SPDX-License-Identifier: Apache-2.0
"""Collects what measure.py needs on a machine with a GPU and no network.

    python benchmarks/gpu/bring.py FOLDER [--architecture 90] [--lengths FILE.npy ...] [--data-only]

Run it on a machine with a network, in this project's environment (make environment-3.12), with the
GPU machine's version of Python. TORCH names that machine's torch, torch==2.11.0 by default. It
fetches the wheels of wheels.txt, checks their sizes and hashes, leaves one architecture's code in
Transformer Engine's library, adds its extension for torch (build_extension.sh makes it), builds
this project, and prepares the conversations of the demo. FOLDER then holds wheels, a corpus with
its tokenizer, and copies of --lengths: token counts of documents, one .npy for each set to be
measured beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from slim import slim_wheel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PIECE = 60 * 2**20


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of wheels.txt."""

    requirement: str
    file: str
    size: int
    sha256: str


def read_list(path: Path = HERE / "wheels.txt") -> list[Listed]:
    """Read the list: requirement, file, bytes and SHA-256 a line."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return [Listed(r, f, int(n), h) for r, f, n, h in (x for x in lines if x[0] != "#")]


def check(listed: Listed, path: Path) -> None:
    """End with a sentence where a file is not the listed one."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (path.stat().st_size, digest) != (listed.size, listed.sha256):
        sys.exit(
            f"error: {path} has {path.stat().st_size} bytes and SHA-256 {digest}, but "
            f"wheels.txt lists {listed.size} and {listed.sha256}: remove the file and try again"
        )


def fetch(listed: Listed, folder: Path) -> Path:
    """Fetch a listed file unless it is there, and check it."""
    path = folder / listed.file
    if not path.exists():
        words = ["download", "--quiet", "--no-deps", "--dest", str(folder), listed.requirement]
        source = ["--no-binary", ":all:", "--no-build-isolation"]
        words += source if listed.file.endswith(".tar.gz") else ["--only-binary", ":all:"]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    if not path.exists():
        sys.exit(f"error: pip fetched another file of {listed.requirement} than {listed.file}")
    check(listed, path)
    return path


def build_extension(source: Path, cache: Path) -> Path:
    """Build the wheel of an extension for this Python and the torch of the other machine."""
    torch = os.environ.get("TORCH", "torch==2.11.0")
    folder = cache / f"{sys.implementation.cache_tag}-{torch}"
    folder.mkdir(exist_ok=True)
    if not list(folder.glob("*.whl")):
        words = ["bash", HERE / "build_extension.sh", source, folder]
        environment = os.environ | {"PYTHON": sys.executable, "TORCH": torch}
        subprocess.run(list(map(str, words)), check=True, env=environment)
    return next(folder.glob("*.whl"))


def cut(path: Path) -> None:
    """Replace a file over 60 MiB by pieces, which ``join`` of measure.py puts together."""
    content = path.read_bytes()
    if len(content) > PIECE:
        for number, start in enumerate(range(0, len(content), PIECE)):
            piece = path.with_name(f"{path.name}.piece{number:02}")
            piece.write_bytes(content[start : start + PIECE])
        path.unlink()


def prepare_chat(folder: Path) -> None:
    """Write the demo's conversations as a corpus, and its tokenizer."""
    if (folder / "corpus.idx").exists():
        return
    subprocess.run([sys.executable, ROOT / "examples" / "chitchat.py", folder], check=True)
    words = ["tokenize", folder / "conversations.jsonl", "--output-prefix", folder / "corpus"]
    words += ["--tokenizer", folder / "tokenizer"]
    subprocess.run([sys.executable, "-m", "megatron_packing.cli", *map(str, words)], check=True)
    (folder / "conversations.jsonl").unlink()


def main() -> None:
    """Collect."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--architecture", type=int, default=90, help="of the card (default: 90)")
    parser.add_argument("--lengths", type=Path, nargs="*", default=[])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/megatron-packing/gpu")
    parser.add_argument("--data-only", action="store_true", help="skip the wheels")
    options = parser.parse_args()
    if missing := [path for path in options.lengths if not path.is_file()]:
        sys.exit(f"error: {missing[0]} does not exist; give with --lengths a .npy file of integers")
    folder, cache = options.folder, options.cache
    folder.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    prepare_chat(folder / "chitchat")
    for path in options.lengths:
        np.save(folder / path.name, np.load(path).astype(np.int32))
    for listed in [] if options.data_only else read_list():
        path = fetch(listed, cache)
        if path.suffix == ".gz":
            path = build_extension(path, cache)
        output = folder / path.name
        if "transformer_engine_cu" in path.name:
            kept, cleared = slim_wheel(path, output, options.architecture)
            print(f"{path.name}: kept {kept:,} bytes of code, left out {cleared:,}")
        else:
            shutil.copy(path, output)
        cut(output)
    if not options.data_only:
        words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
        words += [str(folder), str(ROOT)]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder} holds {size:,} bytes; on the other machine run:")
    print(f"    python3 benchmarks/gpu/measure.py --brought {folder} --out results")


if __name__ == "__main__":
    main()
