# SPDX-License-Identifier: Apache-2.0
"""Finds the input files of a corpus, in local file systems and in those that fsspec supports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError, missing
from megatron_packing.records import storage
from megatron_packing.records.found_file import (
    Allowance,
    FoundFile,
    cannot_open,
    describe,
    folder_version,
)
from megatron_packing.records.input_file import InputFile
from megatron_packing.records.tables import (
    refuse_joined_shards,
    refuse_joined_splits,
    refuse_tables,
)

_THREADS = 32
_KEPT_BYTES = 1 << 26  # of small remote files, in all


def find_inputs(
    patterns: Sequence[str],
    on_progress: Callable[[int, int], None] | None = None,
    record_fields: Collection[str] = (),
) -> list[InputFile]:
    """Find the files that paths, globs and URLs name.

    Files of a glob are sorted by name. The first bytes of a file determine its format, not its
    name.

    Args:
        patterns: Paths, globs and URLs.
        on_progress: Called with how many files were looked into, and how many there are.
        record_fields: Fields that records have; see ``formats.tell_format``.

    Raises:
        InputError: A file does not exist, cannot be read, is not in a known format, is given twice,
            or belongs to a table of a data lake, or the files belong to several splits.
    """
    try:
        import fsspec  # noqa: F401
    except ImportError as error:
        raise missing("tokenizing", "fsspec", "tokenize") from error
    found: list[FoundFile] = []
    fresh: list[Any] = []
    for pattern in patterns:
        try:
            found += _match(pattern, fresh)
        except InputError:
            raise
        except Exception as error:  # a remote file system may raise anything
            raise cannot_open(pattern, error) from error
    _refuse_twice(found)
    refuse_joined_shards(one.path for one in found)
    kept = Allowance(_KEPT_BYTES)
    inputs: list[InputFile | None] = [None] * len(found)
    with ThreadPoolExecutor(_THREADS) as pool:
        looking = {
            pool.submit(describe, one, kept, record_fields): place
            for place, one in enumerate(found)
        }
        try:
            for done, future in enumerate(as_completed(looking), 1):
                inputs[looking[future]] = future.result()
                if on_progress is not None:
                    on_progress(done, len(found))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    described = [file for file in inputs if file is not None]
    for system in {id(one.system): one.system for one in found}.values():
        tabular = [
            one.path
            for one, file in zip(found, described, strict=True)
            if one.system is system and file.format == "parquet"
        ]
        try:
            refuse_tables(system, tabular)
        except InputError:
            raise
        except Exception as error:  # as above
            raise cannot_open(tabular[0], error) from error
    return described


def find_changed(inputs: Sequence[InputFile]) -> InputFile | None:
    """Return the first input that was changed since it was found, or None.

    Raises:
        StorageError: A file system does not respond.
    """

    def is_changed(file: InputFile) -> bool:
        system, path = storage.file_system(file.name)
        if storage.reads_one_version(system) and file.format != "dataset":
            return False  # reads of a changed file fail
        with storage.reading(file.name):
            if not file.is_local:
                system.invalidate_cache()
            try:
                info = system.info(path)
            except FileNotFoundError:
                return True
            if file.format == "dataset":
                infos = system.find(path, maxdepth=1, detail=True)
                return folder_version(infos) != (file.size, file.modified)
            return (info.get("size") or 0, storage.version_of(info)) != (file.size, file.modified)

    with ThreadPoolExecutor(_THREADS) as pool:
        changed = list(pool.map(is_changed, inputs))
    return next((file for file, one in zip(inputs, changed, strict=True) if one), None)


def _match(pattern: str, fresh: list[Any]) -> list[FoundFile]:
    try:
        system, path = storage.file_system(pattern)
    except (ImportError, ValueError) as error:
        raise InputError(f"the input {pattern} cannot be opened: {error}") from error
    if not storage.is_local(system) and not any(system is one for one in fresh):
        system.invalidate_cache()  # drop what this process listed before
        fresh.append(system)
    is_url = "://" in pattern or "::" in pattern
    matched = {}
    is_glob = any(character in path for character in "*?[")
    if is_glob and not (storage.is_local(system) and system.exists(path)):
        matched = system.glob(path, detail=True)
        is_glob = bool(matched) or not system.exists(path)  # a name may contain these characters
    else:
        is_glob = False
    if not is_glob:
        name = str(system.unstrip_protocol(path)) if is_url else pattern
        return [FoundFile(system, path, name, None)]
    paths = sorted(one for one, info in matched.items() if info["type"] != "directory")
    if not paths:
        raise InputError(f"no file matches the input {pattern}")
    refuse_joined_splits(pattern, paths)
    return [
        FoundFile(system, one, str(system.unstrip_protocol(one)) if is_url else one, matched[one])
        for one in paths
    ]


def _refuse_twice(found: Sequence[FoundFile]) -> None:
    seen: dict[object, str] = {}
    for one in found:
        place: object = (type(one.system).__name__, one.path)
        if storage.is_local(one.system):
            try:
                stat = Path(one.path).stat()
            except OSError:
                continue  # ``describe`` reports it
            place = (stat.st_dev, stat.st_ino)
        if place in seen:
            other = seen[place]
            again = "" if other == one.name else f", also as {other}"
            raise InputError(
                f"the input {one.name} is given twice{again}; give it once (pack takes a corpus "
                f"several times: PREFIX:EPOCHS)"
            )
        seen[place] = one.name
