# SPDX-License-Identifier: Apache-2.0
"""Opens and reads files of any file system that fsspec supports.

Every exception of a file system becomes a ``StorageError`` here, where files are read. An exception
that is raised elsewhere comes from a decoder, so the file's content is at fault.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from megatron_packing.errors import InputError

BLOCK_BYTES = 1 << 22
"""How many bytes one request asks for."""
_VERSIONS = (
    *("ETag", "etag", "generation", "blob_id", "mtime", "LastModified", "last_modified"),
    *("Last-Modified", "updated", "created"),
)


class StorageError(InputError):
    """A file could not be read, although its content may be fine."""


def file_system(name: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path in it."""
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
    """Whether reads fail after a file was replaced (as with If-Match on S3)."""
    return _is(system, "s3") and not getattr(system, "local_expiry_check", False)


def version_of(info: dict[str, Any]) -> str:
    """Return a value that changes when a file is replaced; empty if there is none.

    Args:
        info: What fsspec reports about the file.
    """
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


def cause_of(error: BaseException) -> str:
    """Describe an exception of a file system in a few words."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "the file system did not answer in time"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror.strip().rstrip(".")
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def cannot_read(name: str, error: BaseException) -> StorageError:
    """Return the error for a failed read."""
    if type(error).__name__ == "FileExpired":
        return was_replaced(name)
    return StorageError(
        f"the input {name} could not be read ({cause_of(error)}); after fixing that, run the "
        f"same command again; it continues where it stopped"
    )


def was_replaced(name: str) -> StorageError:
    """Return the error for a file that was replaced while it was read."""
    return StorageError(
        f"the input {name} was changed while it was read; start over with --restart"
    )


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Convert exceptions of a file system to ``StorageError``."""
    try:
        yield
    except StorageError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        raise cannot_read(name, error) from error


def open_remote(name: str, size: int, modified: str) -> Any:
    """Open a remote file. Each read of it is one request.

    Args:
        name: The file's URL.
        size: Its size in bytes, 0 if unknown.
        modified: The version that was found; see ``version_of``.

    Raises:
        StorageError: The file was replaced since it was found.
    """
    system, path = file_system(name)
    opened = open_path(system, path, size)
    found = version_of(getattr(opened, "details", None) or {})
    if reads_one_version(system) and modified and found and found != modified:
        raise was_replaced(name)
    return opened


def open_path(system: Any, path: str, size: int) -> Any:
    """Open a file of a file system. A size of 0 means that it is unknown."""
    if _is_stream(system, path, size):
        return open_stream(system, path)
    return system.open(path, "rb", block_size=BLOCK_BYTES, cache_type="none")


def read_beginning(system: Any, path: str, size: int, count: int) -> tuple[bytes, str]:
    """Return the first bytes of a remote file, and the version read, or an empty string.

    Args:
        system: The file system.
        path: The file's path in it.
        size: Its size in bytes, 0 if unknown.
        count: How many bytes to read.
    """
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
    """Whether a server can only send whole files."""
    return is_http(system) and (not size or not system.info(path).get("partial", True))


def open_stream(system: Any, path: str) -> BinaryIO:
    """Copy a whole file to a temporary one at once, because servers drop idle connections."""
    whole = tempfile.TemporaryFile()  # noqa: SIM115
    with system.open(path, "rb", block_size=0) as stream:
        while block := stream.read(1 << 20):
            whole.write(block)
    whole.seek(0)
    return whole
