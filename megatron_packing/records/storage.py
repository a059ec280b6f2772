# SPDX-License-Identifier: Apache-2.0
"""Reads stored bytes of any file system, and tells a failed read from a damaged file.

All that a file system raises is turned into a ``StorageError`` here, at the one place where files
are read. What is raised above it therefore comes from a decoder, and is the file's own fault.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from megatron_packing.errors import InputError

BLOCK_BYTES = 1 << 22
"""Bytes that one request asks for."""
_THREADS = 16
_FILES_AHEAD = 32
_BYTES_AHEAD = 1 << 25
_VERSIONS = (
    *("ETag", "etag", "generation", "blob_id", "mtime", "LastModified", "last_modified"),
    *("Last-Modified", "updated", "created"),
)


class StorageError(InputError):
    """A file could not be read, and nothing is known to be wrong with its content."""


class StoredFile(Protocol):
    """What is read: a name for messages, and what its file system said when it was found."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def modified(self) -> str: ...
    @property
    def content(self) -> bytes | None: ...


def file_system(name: str) -> tuple[Any, str]:
    """The file system of a path or a URL, and the path in it."""
    import fsspec

    return fsspec.core.url_to_fs(name)  # type: ignore[no-any-return]


def _is(system: Any, protocol: str) -> bool:
    names = system.protocol
    return protocol in ((names,) if isinstance(names, str) else names)


def is_local(system: Any) -> bool:
    """Whether files of this file system can be opened by their paths."""
    return _is(system, "file")


def is_http(system: Any) -> bool:
    """Whether files come from a web server."""
    return _is(system, "http")


def reads_one_version(system: Any) -> bool:
    """Whether reads fail once a file was replaced (S3's If-Match)."""
    return _is(system, "s3") and not getattr(system, "local_expiry_check", False)


def version_of(info: dict[str, Any]) -> str:
    """What changes when a file is replaced; empty where the file system does not say."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


def cause_of(error: BaseException) -> str:
    """An error of a file system in a few words."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "the file system did not answer in time"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror.strip().rstrip(".")
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def cannot_read(name: str, error: BaseException) -> StorageError:
    """The sentence for a read that failed."""
    if type(error).__name__ == "FileExpired":
        return was_replaced(name)
    return StorageError(
        f"the input {name} could not be read ({cause_of(error)}); once that is mended, run the "
        f"same command again, it goes on where it stopped"
    )


def was_replaced(name: str) -> StorageError:
    """The sentence for a file that is not the one that was found."""
    return StorageError(
        f"the input {name} was changed while it was read; begin anew with --restart"
    )


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn all that a file system raises into a ``StorageError``."""
    try:
        yield
    except StorageError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        raise cannot_read(name, error) from error


class Source(io.RawIOBase):
    """Stored bytes for a decoder: remembers its error, which decoders may hide in their own."""

    def __init__(self, name: str, path: Path) -> None:
        """Open a local file; messages call it ``name``."""
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
            with reading(self._name):
                return act()
        except StorageError as error:
            self.error = error
            raise


class Download(io.RawIOBase):
    """The bytes of a remote file, once, from its beginning, the next block fetched ahead."""

    def __init__(self, file: StoredFile, pool: ThreadPoolExecutor) -> None:
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
        """Read what is left; the SHA-256 and the size of the whole."""
        while self.read(BLOCK_BYTES):
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
        with reading(file.name):
            if self._stored is None:
                self._stored = open_remote(file)
            try:
                block: bytes = self._stored.read(BLOCK_BYTES)
            except ValueError:
                system, path = file_system(file.name)
                if not is_http(system):
                    raise
                # The server sends the whole, whatever part is asked for.
                self._stored = _open_stream(system, path)
                self._stored.seek(self._fetched)
                block = self._stored.read(BLOCK_BYTES)
        self._fetched += len(block)
        if file.size and (self._fetched > file.size or (not block and self._fetched < file.size)):
            raise StorageError(
                f"the input {file.name} ended after {self._fetched:,} of {file.size:,} bytes; run "
                f"the same command again, it goes on where it stopped"
            )
        return block


def open_remote(file: StoredFile) -> Any:
    """Open a remote file, each read of which is one request.

    Raises:
        StorageError: It is not the version that was found.
    """
    system, path = file_system(file.name)
    opened = open_path(system, path, file.size)
    found = version_of(getattr(opened, "details", None) or {})
    if reads_one_version(system) and file.modified and found and found != file.modified:
        raise was_replaced(file.name)
    return opened


def open_path(system: Any, path: str, size: int) -> Any:
    """Open what is in a file system; a size of 0 is not known."""
    if _is_stream(system, path, size):
        return _open_stream(system, path)
    return system.open(path, "rb", block_size=BLOCK_BYTES, cache_type="none")


def read_beginning(system: Any, path: str, size: int, count: int) -> tuple[bytes, str]:
    """The first bytes of a remote file, and the version that they are of, if it says so."""
    if not _is_stream(system, path, size):
        with open_path(system, path, size) as stored:
            data: bytes = stored.read(min(count, size) if size else count)
            return data, version_of(getattr(stored, "details", None) or {})
    parts: list[bytes] = []
    with system.open(path, "rb", block_size=0) as stream:
        while count > 0 and (block := stream.read(count)):
            parts.append(block)
            count -= len(block)
    return b"".join(parts), ""


def _is_stream(system: Any, path: str, size: int) -> bool:
    """Whether a server gives files only whole."""
    return is_http(system) and (not size or not system.info(path).get("partial", True))


def _open_stream(system: Any, path: str) -> BinaryIO:
    """Read to the end at once: servers do not wait for those who think between two reads."""
    whole = tempfile.TemporaryFile()  # noqa: SIM115
    with system.open(path, "rb", block_size=0) as stream:
        while block := stream.read(1 << 20):
            whole.write(block)
    whole.seek(0)
    return whole


class Downloads:
    """Downloads remote files in the order in which they are read, many small ones at once."""

    def __init__(self, files: list[StoredFile]) -> None:
        """Give ``open`` these files, in this order."""
        self._pool = ThreadPoolExecutor(_THREADS, "megatron-packing-download")
        self._waiting = deque(files)
        self._begun: deque[tuple[StoredFile, Download]] = deque()

    def __enter__(self) -> Downloads:
        return self

    def __exit__(self, *error: object) -> None:
        for _, download in self._begun:
            download.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def open(self, file: StoredFile) -> Iterator[Download]:
        """Yield the next file, from its beginning."""
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
        def cost(file: StoredFile) -> int:
            return min(file.size or BLOCK_BYTES, BLOCK_BYTES)

        ahead = sum(cost(file) for file, _ in self._begun)
        while self._waiting and len(self._begun) < _FILES_AHEAD:
            ahead += cost(self._waiting[0])
            if self._begun and ahead > _BYTES_AHEAD:
                break
            file = self._waiting.popleft()
            self._begun.append((file, Download(file, self._pool)))


def spool(download: Download, folder: Path | None) -> BinaryIO:
    """A local copy of a download for those who read here and there; it has no name."""
    copy = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    while block := download.read(BLOCK_BYTES):
        copy.write(block)
    copy.seek(0)
    return copy


def spool_folder(name: str, folder: Path) -> tuple[str, int]:
    """Copy a remote folder into a local one; the digest and the size of what was read."""
    digest, size = hashlib.sha256(), 0
    with reading(name):
        system, path = file_system(name)
        for one in sorted(system.find(path)):
            relative = one.removeprefix(path)
            digest.update(relative.encode())
            target = folder / relative.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            block = b""
            with open_path(system, one, 1) as stored, target.open("wb") as copy:
                while block := stored.read(BLOCK_BYTES):
                    digest.update(block)
                    copy.write(block)
                    size += len(block)
    return digest.hexdigest(), size


def local_sha256(name: str, stopped: Callable[[], bool]) -> str:
    """A digest of a local file; of a folder, of its files' names and bytes.

    Args:
        name: Its path, or a ``file:`` URL.
        stopped: Asked now and then; when it says so, the digest is of nothing.
    """
    digest = hashlib.sha256()
    with reading(name):
        system, path = file_system(name)
        is_folder = Path(path).is_dir()
        for one in sorted(system.find(path)) if is_folder else [path]:
            if is_folder:
                digest.update(one.removeprefix(path).encode())
            with Path(one).open("rb") as file:
                while not stopped() and (block := file.read(1 << 20)):
                    digest.update(block)
    return digest.hexdigest()
