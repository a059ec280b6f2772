# SPDX-License-Identifier: Apache-2.0
"""Finds the files that a corpus is made from, here or wherever fsspec reaches."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from megatron_packing.errors import InputError, missing
from megatron_packing.records import storage
from megatron_packing.records.formats import START_BYTES, Format, tell_format
from megatron_packing.records.storage import Download, Source, StorageError
from megatron_packing.records.tables import (
    refuse_joined_shards,
    refuse_joined_splits,
    refuse_tables,
)
from megatron_packing.records.unpack import Compression, Unpacked

_THREADS = 32
_BLOCK_BYTES = 1 << 20
# A remote file up to this size is read whole when it is looked at, and kept.
_SMALL_BYTES = 1 << 16
_KEPT_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of records, or a folder that Hugging Face ``datasets`` saved."""

    name: str
    """Its path, or its URL."""
    size: int
    """In bytes, as stored; 0 where a server does not say."""
    modified: str
    """When it was changed last, or its tag; empty where the file system does not say."""
    format: Format
    compression: Compression = ""
    is_local: bool = True
    """Whether it is a path of this machine."""
    content: bytes | None = field(default=None, compare=False, repr=False)
    """All of it, where it is remote and small."""

    @contextmanager
    def open(self, download: Download | None = None) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Yield its bytes, decompressed, and the stored bytes that they come from.

        Args:
            download: Its bytes, of a remote file.

        Raises:
            StorageError: It could not be read, here or while the block runs.
        """
        stored: Any = download
        if download is None:
            with storage.reading(self.name):
                stored = Source(self.name, Path(_local_path(self.name)))
        try:
            source = Unpacked(stored, self.compression) if self.compression else stored
            yield io.BufferedReader(source, _BLOCK_BYTES), stored
        finally:
            stored.close()

    @property
    def unit(self) -> str:
        """What its records are counted in."""
        return "line" if self.format == "lines" else "record"


def _local_path(name: str) -> str:
    return storage.file_system(name)[1]


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of a file system, not looked into yet."""

    system: Any
    path: str
    name: str
    info: dict[str, Any] | None


def find_inputs(
    patterns: Sequence[str], on_progress: Callable[[int, int], None] | None = None
) -> list[InputFile]:
    """Find the files that paths, globs and URLs name, those of a glob in the order of their names.

    What a file holds is told by its first bytes, not by its name.

    Args:
        patterns: Paths, globs and URLs.
        on_progress: Called with the files that were looked into, and how many there are.

    Raises:
        InputError: A file does not exist, cannot be read or is none that can be used, is given
            twice, or belongs to a table or to one of several splits.
    """
    try:
        import fsspec  # noqa: F401
    except ImportError as error:
        raise missing("tokenizing", "fsspec", "tokenize") from error
    found: list[_Found] = []
    fresh: list[Any] = []
    for pattern in patterns:
        try:
            found += _match(pattern, fresh)
        except InputError:
            raise
        except Exception as error:  # of a remote file system: credentials, names, networks
            raise _cannot_open(pattern, error) from error
    _refuse_twice(found)
    refuse_joined_shards(one.path for one in found)
    kept = _Allowance(_KEPT_BYTES)
    inputs: list[InputFile | None] = [None] * len(found)
    with ThreadPoolExecutor(_THREADS) as pool:
        looking = {pool.submit(_describe, one, kept): place for place, one in enumerate(found)}
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
            raise _cannot_open(tabular[0], error) from error
    return described


def find_changed(inputs: Sequence[InputFile]) -> InputFile | None:
    """The first input that is no longer what it was when it was found.

    Raises:
        StorageError: A file system does not answer.
    """

    def is_changed(file: InputFile) -> bool:
        system, path = storage.file_system(file.name)
        if storage.reads_one_version(system) and file.format != "dataset":
            return False  # each read of it would have failed
        with storage.reading(file.name):
            if not file.is_local:
                system.invalidate_cache()
            try:
                info = system.info(path)
            except FileNotFoundError:
                return True
            if file.format == "dataset":
                infos = system.find(path, maxdepth=1, detail=True)
                return _folder_version(infos) != (file.size, file.modified)
            return (info.get("size") or 0, storage.version_of(info)) != (file.size, file.modified)

    with ThreadPoolExecutor(_THREADS) as pool:
        changed = list(pool.map(is_changed, inputs))
    return next((file for file, one in zip(inputs, changed, strict=True) if one), None)


class _Allowance:
    """Bytes that may be kept in memory; threads take of it, and a few too many do no harm."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        if size > self._left:
            return False
        self._left -= size
        return True


def _match(pattern: str, fresh: list[Any]) -> list[_Found]:
    try:
        system, path = storage.file_system(pattern)
    except (ImportError, ValueError) as error:
        raise InputError(f"the input {pattern} cannot be opened: {error}") from error
    if not storage.is_local(system) and not any(system is one for one in fresh):
        system.invalidate_cache()  # of what this process saw before
        fresh.append(system)
    is_url = "://" in pattern or "::" in pattern
    matched = {}
    is_glob = any(character in path for character in "*?[")
    if is_glob and not (storage.is_local(system) and system.exists(path)):
        matched = system.glob(path, detail=True)
        is_glob = bool(matched) or not system.exists(path)  # names may hold such characters
    else:
        is_glob = False
    if not is_glob:
        name = str(system.unstrip_protocol(path)) if is_url else pattern
        return [_Found(system, path, name, None)]
    paths = sorted(one for one, info in matched.items() if info["type"] != "directory")
    if not paths:
        raise InputError(f"no file matches the input {pattern}")
    refuse_joined_splits(pattern, paths)
    return [
        _Found(system, one, str(system.unstrip_protocol(one)) if is_url else one, matched[one])
        for one in paths
    ]


def _refuse_twice(found: Sequence[_Found]) -> None:
    seen: dict[object, str] = {}
    for one in found:
        place: object = (type(one.system).__name__, one.path)
        if storage.is_local(one.system):
            try:
                stat = Path(one.path).stat()
            except OSError:
                continue  # describing it will tell
            place = (stat.st_dev, stat.st_ino)
        if place in seen:
            other = seen[place]
            again = "" if other == one.name else f", also as {other}"
            raise InputError(
                f"the input {one.name} is given twice{again}; give it once (pack takes a corpus "
                f"several times: PREFIX:EPOCHS)"
            )
        seen[place] = one.name


def _cannot_open(name: str, error: Exception) -> StorageError:
    if type(error).__name__ == "FileExpired":
        return _was_replaced(name)
    return StorageError(
        f"the input {name} cannot be opened ({storage.cause_of(error)}); once that is mended, run "
        f"the same command again"
    )


def _was_replaced(name: str) -> StorageError:
    return StorageError(
        f"the input {name} was changed while it was opened; run the same command again"
    )


def _describe(found: _Found, kept: _Allowance) -> InputFile:
    try:
        return _look_into(found, kept)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"the input {found.name} does not exist") from error
    except Exception as error:  # of a remote file system: credentials, names, networks
        raise _cannot_open(found.name, error) from error


def _look_into(found: _Found, kept: _Allowance) -> InputFile:
    system, path, name = found.system, found.path, found.name
    is_local = storage.is_local(system)
    info, opened = found.info, None
    if info is None and storage.reads_one_version(system):  # saves asking for it twice
        with suppress(FileNotFoundError):
            opened = storage.open_path(system, path, 1)
            info = opened.details
    info = info or system.info(path)
    if info["type"] == "directory":
        return _describe_folder(system, path, name, is_local)
    if info["type"] != "file":
        raise InputError(f"the input {name} is no regular file; write it to a file first")
    size = info.get("size") or 0
    start_bytes = START_BYTES
    if not is_local and 0 < size <= _SMALL_BYTES:
        start_bytes = size if kept.take(size) else max(512, size // 8)

    def beginning(count: int) -> bytes:
        if is_local:
            with Path(path).open("rb") as local:
                return local.read(count)
        if opened is not None:
            opened.seek(0)
            return bytes(opened.read(min(count, size)))
        data, version = storage.read_beginning(system, path, size, count)
        if version and version != modified:
            raise _was_replaced(name)
        return data

    modified = storage.version_of(info)
    start = beginning(start_bytes)
    is_whole = not is_local and 0 < size == len(start)
    format_, compression = tell_format(name, start, lambda n: start if is_whole else beginning(n))
    content = start if is_whole and start_bytes == size else None
    return InputFile(name, size, modified, format_, compression, is_local, content)


def _describe_folder(system: Any, path: str, name: str, is_local: bool) -> InputFile:
    refuse_tables(system, [path])
    infos = system.find(path, maxdepth=1, detail=True)
    files = {one.rpartition("/")[2] for one in infos}
    if "dataset_dict.json" in files:
        splits = ", ".join(
            one.rstrip("/").rpartition("/")[2]
            for one in sorted(system.ls(path, detail=False))
            if system.isdir(one)
        )
        raise InputError(
            f"the input {name} holds several splits of a data set; give one of its folders: "
            f"{splits}"
        )
    if "state.json" not in files:
        raise InputError(
            f"the input {name} is a folder, but none that Hugging Face datasets saved; "
            f"give its files, as a glob such as {name.rstrip('/')}/*.jsonl"
        )
    size, modified = _folder_version(infos)
    return InputFile(name, size, modified, "dataset", "", is_local)


def _folder_version(infos: dict[str, Any]) -> tuple[int, str]:
    """The bytes of a folder's files, and what changes when one of them is replaced."""
    files = sorted(infos.items())
    versions = [(one.rpartition("/")[2], storage.version_of(info)) for one, info in files]
    return sum(info["size"] for _, info in files), sha256(repr(versions).encode()).hexdigest()[:16]
