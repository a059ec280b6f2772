# SPDX-License-Identifier: Apache-2.0
"""Refuses files of data-lake tables, and files of several splits of a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.records import storage

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LEADING_WORD = re.compile(r"([A-Za-z]+)(?![A-Za-z])")
_SHARD = re.compile(r"([A-Za-z]+)-\d{5}-of-\d{5}\b")
_LOGS = (("_delta_log", "a Delta table"), (".hoodie", "a Hudi table"))


def refuse_tables(system: Any, paths: Iterable[str]) -> None:
    """Refuse Parquet files of a Delta, Hudi or Iceberg table.

    A table's folder also holds files of deleted and replaced rows, and only its log says which.

    Args:
        system: The file system.
        paths: Files or folders in it.

    Raises:
        InputError: A file belongs to a table.
    """
    if storage.is_http(system):
        return  # web servers do not list folders
    seen: set[str] = set()
    for path in paths:
        for folder in _folders_of_a_table(path):
            if folder in seen:
                continue
            seen.add(folder)
            kind = _table_kind(system, folder)
            if kind:
                raise InputError(
                    f"the input {path} belongs to {kind}, {folder}, whose folder also holds "
                    f"deleted and replaced rows; write its current rows to Parquet (for example "
                    f"with deltalake or pyiceberg) and give those files"
                )


def _folders_of_a_table(path: str) -> list[str]:
    """Return folders that may be the root of a file's table, above its partitions and data."""
    parts = path.split("/")
    folders = [path]
    while len(parts) > 1:
        parts.pop()
        name = parts[-1]
        if "=" in name:
            continue
        folders.append("/".join(parts))
        # Object stores may have two-letter folders, which spread a table's files.
        if name not in ("data", "_delta_log", "metadata") and len(name) != 2:
            break
    return [folder for folder in folders if folder and "." not in folder.rpartition("/")[2]]


def _table_kind(system: Any, folder: str) -> str:
    for log, kind in _LOGS:
        if system.isdir(f"{folder}/{log}"):
            return kind
    if system.isdir(f"{folder}/metadata") and system.glob(f"{folder}/metadata/*.metadata.json"):
        return "an Iceberg table"
    return ""


def refuse_joined_splits(pattern: str, paths: Iterable[str]) -> None:
    """Refuse a glob that matches the files of several splits of a data set.

    Raises:
        InputError: The files belong to several splits.
    """
    found: dict[str, str] = {}
    given = set(PurePosixPath(pattern).parts)
    for path in paths:
        split = _split_of(path, given)
        if split:
            found.setdefault(split, path)
    _refuse_several(f"the input {pattern} joins", found)


def refuse_joined_shards(paths: Iterable[str]) -> None:
    """Refuse files that are given one by one but are shards of several splits.

    Raises:
        InputError: The files belong to several splits.
    """
    found: dict[str, str] = {}
    for path in paths:
        shard = _SHARD.match(path.rpartition("/")[2])
        split = _SPLITS.get(shard[1].lower()) if shard else None
        if split:
            found.setdefault(split, path)
    _refuse_several("the inputs join", found)


def _refuse_several(what: str, found: dict[str, str]) -> None:
    if len(found) > 1:
        (first, path), (second, other), *_ = found.items()
        raise InputError(
            f"{what} the splits {first} and {second} of a data set ({path}, {other}); make "
            f"one corpus of each split"
        )


def _split_of(path: str, given: set[str]) -> str | None:
    """Return the split that begins a file's name, or that names a folder the glob matched."""
    *folders, name = path.split("/")
    word = _LEADING_WORD.match(name)
    if word and word[1].lower() in _SPLITS:
        return _SPLITS[word[1].lower()]
    return next(
        (_SPLITS[one.lower()] for one in folders if one not in given and one.lower() in _SPLITS),
        None,
    )
