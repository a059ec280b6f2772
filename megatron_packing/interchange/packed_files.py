# SPDX-License-Identifier: Apache-2.0
"""Finds packed files, and refuses to make one corpus of several splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.index.manifest import MANIFEST

SUFFIXES = (".npy", ".parquet", ".pq")
ADVICE = "give .npy or .parquet files of packed sequences, or folders of them"
# Words of file names, by the split that they stand for.
_SPLITS = {
    "training": ("train", "training"),
    "validation": ("valid", "validation", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}


def find_packed_files(paths: Sequence[Path], *, mix_splits: bool = False) -> list[Path]:
    """The packed files among ``paths``, and those in folders among them in the order of names.

    Args:
        paths: Files and folders. Of a folder the files in it are taken, not those in its folders.
        mix_splits: Accept files that are named as of different splits.

    Raises:
        InputError: One does not exist, is not of a kind that is read, is given twice, or they are
            of several splits.
    """
    files: list[Path] = []
    for path in paths:
        if (path / MANIFEST).exists():
            raise InputError(f"{path} is a pack index already, which needs no import; {ADVICE}")
        if path.is_dir():
            inside = _packed_files_in(path)
            if not inside:
                below = packed_folders_below(path)
                where = f"; the folders in it do, such as {below[0]}" if below else ""
                raise InputError(f"{path} holds no packed files{where}; {ADVICE}")
            files += inside
        elif not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise InputError(f"{path} {what}; {ADVICE}")
        elif path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path} ends in {path.suffix or 'nothing'}; {ADVICE}")
        else:
            files.append(path)
    _refuse_twice(files)
    if not mix_splits:
        _refuse_mixture(files)
    return files


def packed_folders_below(folder: Path) -> list[Path]:
    """The folders in a folder, at any depth, that hold packed files."""
    return sorted({file.parent for file in folder.rglob("*") if _is_packed(file)} - {folder})


def _packed_files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if _is_packed(file))


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _refuse_twice(files: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for file in files:
        real = file.resolve()
        if real in seen:
            raise InputError(f"{file} is given twice (as {seen[real]} too); give each file once")
        seen[real] = file


def _refuse_mixture(files: Sequence[Path]) -> None:
    """Refuse to make one corpus of training and validation data."""
    several_folders = len({file.parent for file in files}) > 1
    found: dict[str, Path] = {}
    for file in files:
        splits = _splits_of(file.stem)
        if not splits and several_folders:
            splits = _splits_of(file.parent.name)
        for split in splits:
            found.setdefault(split, file)
    if len(found) > 1:
        named = " and ".join(f"{split} ({file})" for split, file in found.items())
        raise InputError(
            f"the {counted(len(files), 'file')} to import are of several splits, by their names: "
            f"{named}; import each split by itself, or give --mix-splits to put them into one "
            f"corpus"
        )


def _splits_of(name: str) -> list[str]:
    """The splits that a name speaks of: ``packed_valTrain-64`` of two."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    lower = {word.lower() for word in words}
    return [split for split, known in _SPLITS.items() if lower.intersection(known)]
