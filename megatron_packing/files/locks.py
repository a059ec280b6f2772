# SPDX-License-Identifier: Apache-2.0
"""Locks that end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockedError(Exception):
    """A process that is alive holds the lock."""


class NoLocksError(Exception):
    """The file system has no locks."""


def take_lock(path: Path) -> int:
    """Make the file ``path`` if there is none, and hold an exclusive lock on it.

    The lock is ``flock``: the kernel gives it up when the process ends, however it ends. Network
    file systems that support it (NFS, Lustre with ``-o flock``) share it between machines.

    Returns:
        A descriptor; closing it gives the lock up.

    Raises:
        LockedError: Another open descriptor holds it.
        NoLocksError: The file system has no locks.
        FileNotFoundError: The folder of ``path`` is gone.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise LockedError(str(path)) from error
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                raise NoLocksError(f"{path}: {error.strerror}") from error
            raise
        os.close(descriptor)  # its holder removed the file before we had the lock: make another


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a lock on ``path``, a file that exists only while it is held.

    Raises:
        LockedError, NoLocksError: As ``take_lock``.
    """
    descriptor = take_lock(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while the lock is held, so that it is ours
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that is called ``path``."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
