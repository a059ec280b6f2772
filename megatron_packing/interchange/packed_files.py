# SPDX-License-Identifier: Apache-2.0
"""Finds packed files, and refuses to mix several splits in one corpus."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.index.manifest import MANIFEST

SUFFIXES = (".npy", ".parquet", ".pq")
ADVICE = "give .npy or .parquet files of packed sequences, or folders of them"
# Words in file names, by split.
_SPLITS = {
    "training": ("train", "training"),
    "validation": ("valid", "validation", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}


def find_packed_files(paths: Sequence[Path], *, mix_splits: bool = False) -> list[Path]:
    """Return the packed files in ``paths``; those in a folder are sorted by name.

    Args:
        paths: Files and folders. Subfolders are not searched.
        mix_splits: Accept files whose names belong to different splits.

    Raises:
        InputError: A path does not exist, is not a packed file, or is given twice, or the files
            belong to several splits.
    """
    files: list[Path] = []
    for path in paths:
        if (path / MANIFEST).exists():
            raise InputError(f"{path} is already a pack index, which needs no import; {ADVICE}")
        if path.is_dir():
            inside = _packed_files_in(path)
            if not inside:
                below = packed_folders_below(path)
                where = f", but {below[0]} does" if below else ""
                raise InputError(f"{path} holds no packed files{where}; {ADVICE}")
            files += inside
        elif not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise InputError(f"{path} {what}; {ADVICE}")
        elif path.suffix.lower() not in SUFFIXES:
            ending = f"ends in {path.suffix}" if path.suffix else "has no file ending"
            raise InputError(f"{path} {ending}; {ADVICE}")
        else:
            files.append(path)
    _refuse_twice(files)
    if not mix_splits:
        _refuse_mixture(files)
    return files


def packed_folders_below(folder: Path) -> list[Path]:
    """Return the subfolders of a folder, at any depth, that hold packed files."""
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
            raise InputError(f"{file} is given twice (also as {seen[real]}); give each file once")
        seen[real] = file


def _refuse_mixture(files: Sequence[Path]) -> None:
    """Refuse to mix training and validation data in one corpus."""
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
            f"the names of the {counted(len(files), 'file')} to import belong to several splits: "
            f"{named}; import each split separately, or give --mix-splits to put them into one "
            f"corpus"
        )


def _splits_of(name: str) -> list[str]:
    """Return the splits in a name; ``packed_valTrain-64`` has two."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    lower = {word.lower() for word in words}
    return [split for split, known in _SPLITS.items() if lower.intersection(known)]
