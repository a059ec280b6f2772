# SPDX-License-Identifier: Apache-2.0
"""Files and folders that exist whole or not at all."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.locks import LockedError, NoLocksError, lock_file, take_lock
from megatron_packing.files.publication import rename_new, undo_half

Opened = TypeVar("Opened")

_STALE = (errno.ESTALE, errno.ENOENT, errno.EIO)
# A temporary sibling is called .NAME.MACHINE-RANDOM.tmp.
_SUFFIX = ".tmp"
_MADE_HERE = re.compile(r"[0-9a-f]{8}-[a-z0-9_]{8}\.tmp")
_LONGEST_NAME = 200  # bytes of NAME: file systems allow 255 for all of it
_LOCK = ".process.lock"
_DAY_SECONDS = 24 * 3600.0


def sync(path: Path) -> None:
    """Flush a file or a folder to its device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_sibling(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, on the same device, and remove it in any case.

    What is to stay is renamed out of it. The folder that holds ``path`` is made if need be. A lock
    in the folder says that its process is alive; those that killed processes left beside ``path``
    are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    folder, lock = _locked_folder(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_folder(path: Path) -> tuple[Path, int | None]:
    while True:
        prefix = f"{_temporary_prefix(path)}{_machine()}-"
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=path.parent))
        try:
            return folder, take_lock(folder / _LOCK)
        except NoLocksError:
            return folder, None
        except (LockedError, FileNotFoundError):
            continue  # before it was locked, another process took it for a leftover


def leftovers(path: Path) -> Iterator[Path]:
    """The temporary siblings of ``path`` whose process has ended, each locked while it is yielded.

    Locks of another machine may not be seen here (Lustre may have them for each machine alone), so
    a folder that was made there must have lain a day untouched too.
    """
    prefix = _temporary_prefix(path)
    try:
        siblings = [
            Path(entry.path)
            for entry in os.scandir(path.parent)
            if entry.name.startswith(prefix) and _MADE_HERE.fullmatch(entry.name[len(prefix) :])
        ]
    except FileNotFoundError:
        return
    for folder in siblings:
        is_near = folder.name[len(prefix) :].startswith(_machine())
        try:
            if not is_near and not _lay_for_a_day(folder):
                continue
            lock = take_lock(folder / _LOCK)
        except (LockedError, NoLocksError, OSError):
            continue  # it is in use, gone, or another user's
        try:
            yield folder
        finally:
            os.close(lock)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left beside ``path``."""
    for folder in leftovers(path):
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_prefix(path: Path) -> str:
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
    return f".{name}."


@functools.cache
def _machine() -> str:
    """Eight characters that stand for this machine since it was started."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        identity = socket.gethostname()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def _lay_for_a_day(folder: Path) -> bool:
    """Whether nothing in a folder has changed for a day, by the clock of its file system."""
    with tempfile.TemporaryFile(dir=folder.parent) as file:
        now = os.fstat(file.fileno()).st_mtime
    changes = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
    return now - max(changes) > _DAY_SECONDS


@contextmanager
def prefix_lock(prefix: Path) -> Iterator[None]:
    """Be the only process that writes the corpus ``prefix``, by ``tokenize`` or by ``import``.

    A corpus that a killed process published in part is removed first, with what else it left.

    Raises:
        InputError: Another process is writing the corpus, or its file system has no locks.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_file(prefix.with_name(f".{prefix.name}.lock")))
        except LockedError as error:
            raise InputError(
                f"another process is writing {prefix}; wait for it or choose another "
                f"--output-prefix"
            ) from error
        except NoLocksError as error:
            raise InputError(
                f"{prefix} cannot be written: its file system has no file locks ({error}); mount "
                f"it with locks (for Lustre: -o flock) or choose another --output-prefix"
            ) from error
        for folder in leftovers(prefix):
            undo_half(folder)
            shutil.rmtree(folder, ignore_errors=True)
        yield


def refuse_existing(path: Path) -> None:
    """Raise InputError where there is something at ``path``; remove what killed runs left by it."""
    if os.path.lexists(path):
        remove_leftovers(path)
        raise InputError(f"{path} exists already; remove it or choose another --output")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends well: whole or not at all.

    The block syncs the files that it writes.

    Raises:
        InputError: There is something at ``path`` already, or the disk is full.
    """
    refuse_existing(path)
    with writing(path), temporary_sibling(path) as folder:
        unfinished = folder / path.name
        unfinished.mkdir()
        yield unfinished
        sync(unfinished)
        try:
            rename_new(unfinished, path)
        except FileExistsError:
            refuse_existing(path)
            raise
        sync(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of errors of the device that ``path`` could not be written, and why.

    Raises:
        InputError: The disk is full, or the folder may not be written to.
    """
    try:
        yield
    except OSError as error:
        # numpy says of a full disk "1000 requested and 10 written", without a number.
        cut_short = error.errno is None and "requested" in str(error)
        if cut_short or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{path} cannot be written: the disk is full or a quota is reached "
                f"({_cause(error)}); make room in {path.parent} or choose another place"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise InputError(
                f"{path} cannot be written ({_cause(error)}); choose another place"
            ) from error
        raise


def _cause(error: OSError) -> str:
    named = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{named}"


def write_whole(path: Path, text: str) -> None:
    """Write a file, or replace it, so that readers find the old text or the new, never a part.

    What is there and is no regular file (a device, a pipe) is written to, and so are the names of
    open files, such as /dev/stdout. A symbolic link stays: the file that it leads to is replaced.
    """
    is_other = path.exists() and not path.is_file()
    if is_other or (path.is_symlink() and path.absolute().parts[1] in ("dev", "proc")):
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
        return
    path = path.resolve() if path.is_symlink() else path
    with temporary_sibling(path) as folder:
        unfinished = folder / path.name
        unfinished.write_text(text, encoding="utf-8")
        sync(unfinished)
        unfinished.replace(path)


def open_patiently(
    opener: Callable[[], Opened],
    folder: Path,
    seconds: float,
    on_wait: Callable[[str], None] | None = None,
) -> Opened:
    """Call ``opener`` until it finds its files whole.

    A client of a network file system may go on for half a minute without what another machine
    wrote (NFS caches that a name is missing, Megatron-Bridge#4207); listing the folder makes it ask
    the server again.

    Args:
        opener: Raises UnreadableError, or an OSError of a stale view, while something is missing.
        folder: Where the files are, or are to be.
        seconds: How long to try; 0 to try once.
        on_wait: Told what is missing, once.

    Raises:
        UnreadableError: It was missing to the end; names the machine and the time.
    """
    started = time.monotonic()
    pause, has_waited = 0.1, False
    while True:
        try:
            return opener()
        except (UnreadableError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _STALE:
                raise
            if time.monotonic() - started >= seconds:
                if not has_waited:
                    raise
                raise UnreadableError(
                    f"{error} (as {socket.gethostname()} sees it after looking for {seconds:.0f} "
                    f"s; if it is there on other machines, mount or copy it here)"
                ) from error
            if on_wait is not None and not has_waited:
                on_wait(str(error))
            has_waited = True
        for parent in (folder, *folder.parents):
            with suppress(OSError):
                list(parent.iterdir())
                break
        time.sleep(pause)
        pause = min(1.5 * pause, 2.0)  # thousands of ranks ask one server
