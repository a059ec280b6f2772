# SPDX-License-Identifier: Apache-2.0
"""Opens and maps regular files that a user names, and reads JSON from them."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing.errors import InputError, UnreadableError

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO)
_FORBIDDEN = (errno.EACCES, errno.EPERM)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path, *, looks_first: bool = True) -> BinaryIO:
    """Open a regular file for reading.

    It does not wait for a pipe and does not open a device. It follows symbolic links.

    Args:
        path: The file.
        looks_first: False for a name that only this project gives to files, such as
            ``manifest.json``. It is looked at when it is open, which saves one question to a file
            server. A device of that name would be opened before it is refused.

    Raises:
        UnreadableError: The file does not exist, or a network file system does not show it yet.
        InputError: It is not a regular file, or this process may not open it.
    """
    try:
        if looks_first:
            _refuse_irregular(path, path.stat())
        # The file may have been replaced meanwhile, so check again, and do not wait for a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        _refuse(path, error)
    except ValueError as error:  # a path with a null character
        raise _no_path(path, error) from error
    try:
        _refuse_irregular(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def size_of(path: Path) -> int:
    """Return the size of a regular file in bytes; see ``look_at``."""
    return look_at(path).st_size


def place_of(path: Path) -> list[int]:
    """Return the inode of a regular file and the nanosecond of its last change.

    Two machines that see the same numbers see one file; a copy has others. See ``look_at``.
    """
    return place_in(look_at(path))


def place_in(status: os.stat_result) -> list[int]:
    """Return what ``place_of`` does, of a file that was looked at."""
    return [status.st_ino, status.st_ctime_ns]


def look_at(path: Path) -> os.stat_result:
    """Look at a regular file without opening it.

    Raises:
        UnreadableError: The file does not exist, or a network file system does not show it yet.
        InputError: It is not a regular file, or this process may not look at it.
    """
    try:
        status = path.stat()
    except OSError as error:
        _refuse(path, error)
    except ValueError as error:
        raise _no_path(path, error) from error
    _refuse_irregular(path, status)
    return status


def map_array(path: Path, file: BinaryIO, dtype: str, start: int, length: int) -> NDArray[Any]:
    """Map a one-dimensional array of ``length`` values, from byte ``start`` of an open file.

    The array needs no descriptor, so the file may be closed.

    Raises:
        UnreadableError: The file is shorter: it was truncated meanwhile.
        InputError: This process may not map it.
    """
    kind = np.dtype(dtype)
    size = length * kind.itemsize
    if size == 0:
        return np.zeros(0, kind)
    try:
        found = os.fstat(file.fileno()).st_size
        if found < start + size:
            raise UnreadableError(
                f"{path} was truncated while it was opened: it has {found} of {start + size} "
                f"bytes; write or copy it again"
            )
        return _core.map_file(file.fileno(), start, size).view(kind)
    except OSError as error:
        _refuse(path, error)


def read_json_object(path: Path, advice: str) -> dict[str, Any]:
    """Read a JSON object from a regular file; see ``read_json_file``."""
    return read_json_file(path, advice)[0]


def read_json_file(
    path: Path, advice: str, *, looks_first: bool = True
) -> tuple[dict[str, Any], os.stat_result]:
    """Read a JSON object from a regular file, and what the open file looks like.

    Args:
        path: The file.
        advice: What to do if it is damaged, such as "make the pack index again".
        looks_first: See ``open_regular``.

    Raises:
        UnreadableError: The file does not exist, or is not JSON, perhaps because it is incomplete.
        InputError: It is not a regular file, or does not hold an object.
    """
    with open_regular(path, looks_first=looks_first) as file:
        try:
            status = os.fstat(file.fileno())
            content = file.read(status.st_size)  # without asking for more
            found = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
        except (OSError, ValueError) as error:
            raise UnreadableError(f"{path} is damaged ({error}); {advice}") from error
        except RecursionError as error:
            raise InputError(
                f"{path} is damaged (its JSON is nested too deeply); {advice}"
            ) from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a JSON {type(found).__name__}, not an object; {advice}")
    return found, status


def _no_path(path: Path, error: ValueError) -> InputError:
    return InputError(f"{str(path)!r} is not a path ({error})")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_irregular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "something else")
    raise InputError(f"{path} is {kind}, not a regular file; give the file itself")


def _refuse(path: Path, error: OSError) -> NoReturn:
    if error.errno in _MISSING:
        target = f" (a link to {path.readlink()})" if path.is_symlink() else ""
        raise UnreadableError(f"{path}{target} {_why_missing(error)}") from error
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        raise InputError(
            f"{path} cannot be opened: this process may open only {limit} files at a time; raise "
            f"the limit with: ulimit -n"
        ) from error
    if error.errno in _FORBIDDEN:
        raise InputError(
            f"{path} cannot be opened ({error.strerror}): {_who_may_read(path)}; let this user "
            f"read it, and look into its folder"
        ) from error
    if error.errno == errno.ENOMEM:
        raise InputError(
            f"{path} cannot be mapped into memory ({error.strerror}); raise the limit of memory "
            f"(ulimit -v) or of maps (sysctl vm.max_map_count)"
        ) from error
    raise InputError(f"{path} cannot be opened ({error.strerror})") from error


def _why_missing(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "does not exist"
    if error.errno == errno.ESTALE:
        return (
            "was replaced or removed on its file server after this machine had looked it up "
            f"({error.strerror})"
        )
    return f"is missing ({error})"


def _who_may_read(path: Path) -> str:
    """The user of this process, and the owner and the mode of a file where they can be seen."""
    user = f"this process runs as user {os.geteuid()}"
    try:
        status = path.stat()
    except OSError:
        return user
    return f"{user}, the file is of user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}"
