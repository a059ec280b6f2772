# SPDX-License-Identifier: Apache-2.0
"""Downloads remote files in the order in which they are read, some of them ahead."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from megatron_packing.records import storage
from megatron_packing.records.input_file import InputFile
from megatron_packing.records.storage import StorageError

_THREADS = 16
_FILES_AHEAD = 32
_BYTES_AHEAD = 1 << 25


class Download(io.RawIOBase):
    """Reads a remote file once, from its beginning, and fetches the next block ahead."""

    def __init__(self, file: InputFile, pool: ThreadPoolExecutor) -> None:
        self._file = file
        self._pool = pool
        self._stored: Any = None
        self._fetched = 0
        self._count = 0
        self._block = memoryview(b"")
        self._digest = hashlib.sha256()
        self.error: StorageError | None = None
        self._next: Future[bytes] | None = pool.submit(self._fetch)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._count

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            self._block = memoryview(self._take())
        size = min(len(buffer), len(self._block))
        buffer[:size] = self._block[:size]
        self._block = self._block[size:]
        self._count += size
        return size

    def finish(self) -> tuple[str, int]:
        """Read the rest; return the SHA-256 and the size of the whole file."""
        while self.read(storage.BLOCK_BYTES):
            pass
        return self._digest.hexdigest(), self._count

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
        with suppress(Exception):
            self._stored.close()
        super().close()

    def _take(self) -> bytes:
        if self._next is None:
            return b""
        try:
            block = self._next.result()
        except StorageError as error:
            self.error = error
            raise
        self._digest.update(block)
        at_end = not block or self._fetched == self._file.size
        self._next = None if at_end else self._pool.submit(self._fetch)
        return block

    def _fetch(self) -> bytes:
        file = self._file
        if file.content is not None:
            self._fetched = len(file.content)
            return file.content
        with storage.reading(file.name):
            if self._stored is None:
                self._stored = storage.open_remote(file.name, file.size, file.modified)
            try:
                block: bytes = self._stored.read(storage.BLOCK_BYTES)
            except ValueError:
                system, path = storage.file_system(file.name)
                if not storage.is_http(system):
                    raise
                # The server ignores the range and sends the whole file.
                self._stored = storage.open_stream(system, path)
                self._stored.seek(self._fetched)
                block = self._stored.read(storage.BLOCK_BYTES)
        self._fetched += len(block)
        if file.size and (self._fetched > file.size or (not block and self._fetched < file.size)):
            raise StorageError(
                f"the input {file.name} ended after {self._fetched:,} of {file.size:,} bytes; run "
                f"the same command again; it continues where it stopped"
            )
        return block


class Downloads:
    """Downloads remote files in order, several small ones at the same time."""

    def __init__(self, files: list[InputFile]) -> None:
        """Prepare to ``open`` these files, in this order."""
        self._pool = ThreadPoolExecutor(_THREADS, "megatron-packing-download")
        self._waiting = deque(files)
        self._begun: deque[tuple[InputFile, Download]] = deque()

    def __enter__(self) -> Downloads:
        return self

    def __exit__(self, *error: object) -> None:
        for _, download in self._begun:
            download.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def open(self, file: InputFile) -> Iterator[Download]:
        """Yield the download of the next file, at its beginning."""
        self._begin_some()
        begun, download = self._begun.popleft()
        if begun is not file:
            raise AssertionError(f"{file.name} is not the next file")
        try:
            self._begin_some()
            yield download
        finally:
            download.close()

    def _begin_some(self) -> None:
        def cost(file: InputFile) -> int:
            return min(file.size or storage.BLOCK_BYTES, storage.BLOCK_BYTES)

        ahead = sum(cost(file) for file, _ in self._begun)
        while self._waiting and len(self._begun) < _FILES_AHEAD:
            ahead += cost(self._waiting[0])
            if self._begun and ahead > _BYTES_AHEAD:
                break
            file = self._waiting.popleft()
            self._begun.append((file, Download(file, self._pool)))


def copy_download(download: Download, folder: Path | None) -> BinaryIO:
    """Copy a download to an unnamed temporary file, which can be read in any order."""
    copy = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    while block := download.read(storage.BLOCK_BYTES):
        copy.write(block)
    copy.seek(0)
    return copy


def copy_remote_folder(name: str, folder: Path) -> tuple[str, int]:
    """Copy a remote folder into a local one; return its digest and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with storage.reading(name):
        system, path = storage.file_system(name)
        for one in sorted(system.find(path)):
            relative = one.removeprefix(path)
            digest.update(relative.encode())
            target = folder / relative.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            block = b""
            with storage.open_path(system, one, 1) as stored, target.open("wb") as copy:
                while block := stored.read(storage.BLOCK_BYTES):
                    digest.update(block)
                    copy.write(block)
                    size += len(block)
    return digest.hexdigest(), size
