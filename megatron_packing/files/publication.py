# SPDX-License-Identifier: Apache-2.0
"""Gives files and folders their final names, without overwriting anything.

A set of files (a corpus) takes several renames. Before the first one a note of them is left in the
folder that holds the files, so that a later run can undo the renames of one that was killed.
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
# How kernels and file systems say that they do not support a way of renaming.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or a folder to a name that must be free.

    One operation does both, looking and renaming, where the file system can: ``renameat2``, or a
    hard link for files, as on NFS. Elsewhere a check comes before the rename.

    Raises:
        FileExistsError: There is something at ``target``, be it a dangling link.
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
    """Rename the files of ``targets``' names in ``folder`` to their places: all or none.

    The caller holds the lock of the prefix.

    Args:
        folder: Holds a file for each target, and gets the note.
        targets: In the order of renaming; the last one is what makes the set visible.

    Raises:
        FileExistsError: There is something at one of them. The others are taken back.
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
    """Remove what ``publish_files`` renamed out of ``folder`` before it was stopped.

    A set that was published whole stays. Files that are not those of the note stay too.
    """
    try:
        described = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing was renamed before the note was there whole
    mine = [Path(name) for name, identity in described.items() if _identity(Path(name)) == identity]
    if mine and str(mine[-1]) == list(described)[-1]:
        return
    for path in mine:
        path.unlink()


def _identity(path: Path) -> list[int] | None:
    """What stays when a file is renamed, and tells it from another of the same name."""
    try:
        about = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [about.st_ino, about.st_size, about.st_mtime_ns]


def _rename_noreplace(source: Path, target: Path) -> bool:
    """Rename by ``renameat2``; False where there is no such thing."""
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
    """Give a file a second name; False where there are no hard links."""
    try:
        os.link(source, target)
    except FileExistsError:
        # An NFS server that answered a lost request twice says so of its own link.
        if _identity(source) != _identity(target):
            raise
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True
