# SPDX-License-Identifier: Apache-2.0
"""Where the files of corpora are, and how their data are read: mapped, by position, or remotely."""

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
    """The name of an object, or of corpora of which some are objects, as it was given.

    ``pathlib`` keeps one of the two slashes in ``s3://bucket/key``; the text of this has both.
    """

    def __str__(self) -> str:
        return _URL.sub(r"\1://", super().__str__())


def corpus_path(prefix: str | Path) -> Path:
    """A prefix as a path that is written as it was given."""
    return RemotePath(prefix) if _ANY_URL.search(str(prefix)) else Path(prefix)


def is_remote(prefix: str | Path) -> bool:
    """Whether a corpus is in an object store."""
    return _ANY_URL.match(str(prefix)) is not None


class DataReader(Protocol):
    """The bytes of a ``.bin`` file."""

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes ``start`` to ``stop``, which the file has."""


class Storage(Protocol):
    """What a corpus asks for of its files."""

    def local_prefix(self, prefix: Path) -> Path:
        """The prefix under which the ``.idx`` files and the record are on this machine."""

    def data_size(self, prefix: Path) -> int | None:
        """Bytes of ``PREFIX.bin``; None where a look at the file itself says it."""

    def open_data(self, prefix: Path, size: int) -> DataReader:
        """Open ``PREFIX.bin``, which has ``size`` bytes."""

    def known_fingerprint(self, prefix: Path) -> str | None:
        """The fingerprint of the corpus, where it was kept."""


@dataclass(frozen=True, slots=True)
class FileStorage:
    """Corpora in file systems."""

    mapped: bool = True
    """False: data are read by position, without a map. ``.idx`` files are mapped in any case."""

    def local_prefix(self, prefix: Path) -> Path:
        """The same.

        Raises:
            InputError: The corpus is in an object store.
        """
        if is_remote(prefix):
            raise InputError(
                f"{corpus_path(prefix)} is in an object store, from which Megatron's pretrain() "
                f"alone reads, with --object-storage-cache-path: copy its .idx and .bin files and "
                f"those of its loss mask to a file system, and name that"
            )
        return prefix

    def data_size(self, prefix: Path) -> None:
        """None: the file says it."""

    def open_data(self, prefix: Path, size: int) -> DataReader:
        """Open ``PREFIX.bin``.

        Raises:
            UnreadableError: It is missing, or does not have ``size`` bytes.
        """
        path = data_path(prefix)
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise UnreadableError(
                    f"{path} has {found} bytes where it had {size} when the corpus was opened; "
                    f"write or copy it again"
                )
            if size == 0:
                return MappedData(np.zeros(0, np.uint8))
            if self.mapped:
                return MappedData(np.asarray(map_array(path, file, "|u1", 0, size)))
            return PositionedData(path, os.dup(file.fileno()))

    def known_fingerprint(self, prefix: Path) -> None:
        """None: reading it is cheap."""


@dataclass(frozen=True, slots=True)
class MappedData:
    """A ``.bin`` file in memory."""

    data: NDArray[np.uint8]

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """A view."""
        return self.data[start:stop]


class PositionedData:
    """A ``.bin`` file that is read with ``pread``, which threads and forks may share."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """A copy.

        Raises:
            UnreadableError: The file was cut off.
        """
        data, at = bytearray(stop - start), 0
        while at < len(data):
            count = os.preadv(self._descriptor, [memoryview(data)[at:]], start + at)
            if count == 0:
                raise UnreadableError(
                    f"{self._path} ends at byte {start + at}, before byte {stop}, so it was cut "
                    f"off since the corpus was opened; write or copy it again"
                )
            at += count
        return np.frombuffer(data, np.uint8)


FILES = FileStorage()
