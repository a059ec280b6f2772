# SPDX-License-Identifier: Apache-2.0
"""Renames files and folders to their final names without overwriting anything.

A set of files, such as a corpus, needs several renames. They are first recorded in a note beside
the files, so that a later run can undo the renames of a killed one.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

NOTE = "publishing.json"
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
# Errors of kernels and file systems that do not support a way of renaming.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or a folder to a name that must not exist.

    If the file system can, one operation checks and renames: ``renameat2``, or a hard link for
    files, as on NFS. Otherwise the name is checked first.

    Raises:
        FileExistsError: ``target`` exists, even as a dangling link.
    """
    if _rename_noreplace(source, target):
        return
    if not source.is_dir() and _link(source, target):
        source.unlink()
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def publish_files(folder: Path, targets: Sequence[Path]) -> None:
    """Move files out of ``folder`` to their targets: all of them or none.

    The caller must hold the lock of the prefix.

    Args:
        folder: Holds a file with the name of each target, and receives the note.
        targets: The new paths, in the order of renaming. The last one makes the set visible.

    Raises:
        FileExistsError: One of them exists. The renames before it are undone.
    """
    described = {str(target): _identity(folder / target.name) for target in targets}
    with (folder / NOTE).open("w", encoding="utf-8") as file:
        json.dump(described, file)
        file.flush()
        os.fsync(file.fileno())
    try:
        for target in targets:
            rename_new(folder / target.name, target)
    except BaseException:
        undo_half(folder)
        raise


def undo_half(folder: Path) -> None:
    """Remove the files that an interrupted ``publish_files`` moved out of ``folder``.

    A complete set is kept, and so are files that the note does not describe.
    """
    try:
        described = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # without a complete note nothing was renamed
    mine = [Path(name) for name, identity in described.items() if _identity(Path(name)) == identity]
    if mine and str(mine[-1]) == list(described)[-1]:
        return
    for path in mine:
        path.unlink()


def _identity(path: Path) -> list[int] | None:
    """Return values that identify a file and do not change when it is renamed."""
    try:
        about = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [about.st_ino, about.st_size, about.st_mtime_ns]


def _rename_noreplace(source: Path, target: Path) -> bool:
    """Rename with ``renameat2``; return False if that is not supported."""
    rename = _renameat2()
    if rename is None:
        return False
    names = (os.fsencode(source), os.fsencode(target))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(target))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    with suppress(OSError, AttributeError):
        function = ctypes.CDLL(None, use_errno=True).renameat2
        function.argtypes = (
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_uint,
        )
        function.restype = ctypes.c_int
        return function
    return None


def _link(source: Path, target: Path) -> bool:
    """Create a hard link; return False if that is not supported."""
    try:
        os.link(source, target)
    except FileExistsError:
        # An NFS server may report this about its own link if it handles a repeated request.
        if _identity(source) != _identity(target):
            raise
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True
