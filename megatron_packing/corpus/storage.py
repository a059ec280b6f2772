# SPDX-License-Identifier: Apache-2.0
"""Reads the ``.bin`` files of corpora: memory-mapped, by position, or from an object store."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.indexed_dataset import data_path
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import map_array, open_regular

_URL = re.compile(r"(?:^|(?<=,))([a-z][a-z0-9+.-]+):/(?!/)", re.ASCII)
_ANY_URL = re.compile(r"(?:^|,)[a-z][a-z0-9+.-]+:/", re.ASCII)


class RemotePath(PosixPath):
    """The URL of an object, or a list of corpora that contains one, as the user gave it.

    ``pathlib`` removes one of the two slashes in ``s3://bucket/key``; ``str`` restores it.
    """

    def __str__(self) -> str:
        return _URL.sub(r"\1://", super().__str__())


def corpus_path(prefix: str | Path) -> Path:
    """Return a prefix as a path whose text is as the user gave it."""
    return RemotePath(prefix) if _ANY_URL.search(str(prefix)) else Path(prefix)


def is_remote(prefix: str | Path) -> bool:
    """Whether a corpus is in an object store."""
    return _ANY_URL.match(str(prefix)) is not None


class DataReader(Protocol):
    """The bytes of a ``.bin`` file."""

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return bytes ``start`` to ``stop``, which must exist."""


class Storage(Protocol):
    """What a corpus needs to find and read its files."""

    def local_prefix(self, prefix: Path) -> Path:
        """Return the prefix of the ``.idx`` files and the record on this machine."""

    def data_size(self, prefix: Path) -> int | None:
        """Return the size of ``PREFIX.bin``; None if it can be read from the file."""

    def open_data(self, prefix: Path, size: int) -> DataReader:
        """Open ``PREFIX.bin``, which has ``size`` bytes."""

    def known_fingerprint(self, prefix: Path) -> str | None:
        """Return the fingerprint of the corpus if it was stored, else None."""


@dataclass(frozen=True, slots=True)
class FileStorage:
    """Corpora in file systems."""

    mapped: bool = True
    """If False, data are read by position. ``.idx`` files are mapped in any case."""

    def local_prefix(self, prefix: Path) -> Path:
        """Return the prefix itself.

        Raises:
            InputError: The corpus is in an object store.
        """
        if is_remote(prefix):
            raise InputError(
                f"{corpus_path(prefix)} is in an object store, which only Megatron's pretrain() "
                f"can read, with --object-storage-cache-path; copy its .idx and .bin files and "
                f"those of its loss mask to a file system, and give that path"
            )
        return prefix

    def data_size(self, prefix: Path) -> None:
        """Return None, because the file has its size."""

    def open_data(self, prefix: Path, size: int) -> DataReader:
        """Open ``PREFIX.bin``.

        Raises:
            UnreadableError: The file is missing, or does not have ``size`` bytes.
        """
        return open_data_file(data_path(prefix), size, mapped=self.mapped)

    def known_fingerprint(self, prefix: Path) -> None:
        """Return None, because computing it is cheap."""


def open_data_file(path: Path, size: int, *, mapped: bool = True) -> DataReader:
    """Open the data of a corpus, mapped or to be read by position.

    Raises:
        UnreadableError: The file is missing, or does not have ``size`` bytes.
    """
    with open_regular(path) as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise UnreadableError(
                f"{path} has {found} bytes, but had {size} when the corpus was opened; "
                f"write or copy it again"
            )
        if mapped or size == 0:
            return MappedData(map_array(path, file, "|u1", 0, size))
        return PositionedData(path, os.dup(file.fileno()))


@dataclass(frozen=True, slots=True)
class MappedData:
    """A memory-mapped ``.bin`` file."""

    data: NDArray[np.uint8]

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a view."""
        return self.data[start:stop]


class PositionedData:
    """A ``.bin`` file that is read with ``pread``, so threads and forks can share it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a copy.

        Raises:
            UnreadableError: The file was truncated.
        """
        data, at = bytearray(stop - start), 0
        while at < len(data):
            count = os.preadv(self._descriptor, [memoryview(data)[at:]], start + at)
            if count == 0:
                raise UnreadableError(
                    f"{self._path} ends at byte {start + at}, before byte {stop}, so it was "
                    f"truncated after the corpus was opened; write or copy it again"
                )
            at += count
        return np.frombuffer(data, np.uint8)


FILES = FileStorage()
