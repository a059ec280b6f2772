# SPDX-License-Identifier: Apache-2.0
"""Describes one input file, and opens it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from megatron_packing.records import storage
from megatron_packing.records.formats import Format
from megatron_packing.records.storage import StorageError
from megatron_packing.records.unpack import Compression, Unpacked

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of records, or a folder that Hugging Face ``datasets`` saved."""

    name: str
    """Its path or URL."""
    size: int
    """In bytes, as stored; 0 if a server does not report it."""
    modified: str
    """Its modification time or tag; empty if the file system has neither."""
    format: Format
    compression: Compression = ""
    is_local: bool = True
    """Whether it is a path on this machine."""
    content: bytes | None = field(default=None, compare=False, repr=False)
    """The whole content of a small remote file, which was read already."""

    @contextmanager
    def open(self, download: io.RawIOBase | None = None) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Yield the decompressed content, and the stored bytes that it is read from.

        Args:
            download: The stored bytes of a remote file; None opens a local file.

        Raises:
            StorageError: The file could not be read, on opening or while the block runs.
        """
        stored: Any = download
        if download is None:
            with storage.reading(self.name):
                stored = LocalFile(self.name, Path(_local_path(self.name)))
        try:
            source = Unpacked(stored, self.compression) if self.compression else stored
            yield io.BufferedReader(source, _BLOCK_BYTES), stored
        finally:
            stored.close()

    @property
    def unit(self) -> str:
        """What a record of it is called in messages: ``line`` or ``record``."""
        return "line" if self.format == "lines" else "record"


def _local_path(name: str) -> str:
    return storage.file_system(name)[1]


class LocalFile(io.RawIOBase):
    """Reads a local file for a decoder, and keeps its own error.

    Decoders may replace the error of a failed read with one of theirs.
    """

    def __init__(self, name: str, path: Path) -> None:
        """Open a local file.

        Args:
            name: Names the file in errors.
            path: The file.
        """
        self._name = name
        self._file = path.open("rb", buffering=0)
        self.error: StorageError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._attempt(lambda: self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        return self._attempt(lambda: self._file.readinto(buffer) or 0)

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()
        super().close()

    def _attempt(self, act: Callable[[], int]) -> int:
        try:
            with storage.reading(self._name):
                return act()
        except StorageError as error:
            self.error = error
            raise
