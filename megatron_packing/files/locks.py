# SPDX-License-Identifier: Apache-2.0
"""File locks, which are released when the process that holds them ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockedError(Exception):
    """Another process holds the lock."""


class NoLocksError(Exception):
    """The file system does not support locks."""


def take_lock(path: Path) -> int:
    """Create the file ``path`` if it does not exist, and hold an exclusive lock on it.

    The lock is ``flock``, which the kernel releases when the process ends in any way. Network file
    systems that support it (NFS, Lustre with ``-o flock``) share it between machines.

    Returns:
        A descriptor. Closing it releases the lock.

    Raises:
        LockedError: Another open descriptor holds the lock.
        NoLocksError: The file system does not support locks.
        FileNotFoundError: The folder of ``path`` does not exist.
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
        os.close(descriptor)  # the former holder removed the file before we locked it: try again


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a lock on ``path``, a file that exists only while the lock is held.

    Raises:
        LockedError, NoLocksError: As ``take_lock``.
    """
    descriptor = take_lock(path)
    try:
        yield
    finally:
        path.unlink(
            missing_ok=True
        )  # while the lock is held, so that no other process has locked it
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one at ``path``."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
