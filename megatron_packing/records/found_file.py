# SPDX-License-Identifier: Apache-2.0
"""Looks into a file or folder that was found: its version, its size, and what it holds."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.records import storage
from megatron_packing.records.formats import START_BYTES, tell_format
from megatron_packing.records.input_file import InputFile
from megatron_packing.records.storage import StorageError
from megatron_packing.records.tables import refuse_tables

# A remote file up to this size is read and kept when its beginning is read.
_SMALL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file or folder that a pattern matched."""

    system: Any
    path: str
    name: str
    info: dict[str, Any] | None


class Allowance:
    """How many bytes may still be kept in memory.

    Threads share it without a lock: exceeding it a little does no harm.
    """

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        if size > self._left:
            return False
        self._left -= size
        return True


def cannot_open(name: str, error: Exception) -> StorageError:
    """Return the error for an input that could not be opened."""
    if type(error).__name__ == "FileExpired":
        return _was_replaced(name)
    return StorageError(
        f"the input {name} cannot be opened ({storage.cause_of(error)}); after fixing that, run "
        f"the same command again"
    )


def _was_replaced(name: str) -> StorageError:
    return StorageError(
        f"the input {name} was changed while it was opened; run the same command again"
    )


def describe(found: FoundFile, kept: Allowance, record_fields: Collection[str] = ()) -> InputFile:
    """Look into a file or folder.

    Args:
        found: What a pattern matched.
        kept: How much content of small remote files may still be kept.
        record_fields: As in ``tell_format``.

    Raises:
        InputError: It does not exist, cannot be opened, or is not in a known format.
    """
    try:
        return _look_into(found, kept, record_fields)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"the input {found.name} does not exist") from error
    except Exception as error:  # a remote file system may raise anything
        raise cannot_open(found.name, error) from error


def _look_into(found: FoundFile, kept: Allowance, record_fields: Collection[str]) -> InputFile:
    system, path, name = found.system, found.path, found.name
    is_local = storage.is_local(system)
    info, opened = found.info, None
    if info is None and storage.reads_one_version(system):  # saves a second request
        with suppress(FileNotFoundError):
            opened = storage.open_path(system, path, 1)
            info = opened.details
    info = info or system.info(path)
    if info["type"] == "directory":
        return _describe_folder(system, path, name, is_local)
    if info["type"] != "file":
        raise InputError(f"the input {name} is not a regular file; write it to a file first")
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

    def more(count: int) -> bytes:
        return start if is_whole else beginning(count)

    format_, compression = tell_format(name, start, more, record_fields)
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
            f"the input {name} is a folder that Hugging Face datasets did not save; "
            f"give its files, as a glob such as {name.rstrip('/')}/*.jsonl"
        )
    size, modified = folder_version(infos)
    return InputFile(name, size, modified, "dataset", "", is_local)


def folder_version(infos: dict[str, Any]) -> tuple[int, str]:
    """Return the size of a folder's files, and a value that changes when one is replaced.

    Args:
        infos: Maps each file's path to what fsspec reports about it.
    """
    files = sorted(infos.items())
    versions = [(one.rpartition("/")[2], storage.version_of(info)) for one, info in files]
    return sum(info["size"] for _, info in files), sha256(repr(versions).encode()).hexdigest()[:16]
