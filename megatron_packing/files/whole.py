# SPDX-License-Identifier: Apache-2.0
"""Writes files and folders so that they exist completely or not at all."""

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
# A temporary sibling has the name .NAME.MACHINE-RANDOM.tmp.
_SUFFIX = ".tmp"
_MADE_HERE = re.compile(r"[0-9a-f]{8}-[a-z0-9_]{8}\.tmp")
_LONGEST_NAME = 200  # bytes of NAME, because file systems allow 255 for the whole name
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
    """Yield an empty folder beside ``path``, on the same device, and remove it in the end.

    The block renames files out of it to keep them. The parent folder of ``path`` is created if it
    does not exist. A lock in the folder shows that its process is alive. Folders of killed
    processes beside ``path`` are removed.
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
            continue  # another process removed it as a leftover before it was locked


def leftovers(path: Path) -> Iterator[Path]:
    """Yield the temporary siblings of ``path`` whose process has ended, each locked meanwhile.

    Locks of another machine may not be visible here (Lustre can have locks per machine), so a
    folder from another machine must also be unchanged for a day.
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
        is_of_this_machine = folder.name[len(prefix) :].startswith(_machine())
        try:
            if not is_of_this_machine and not _is_unchanged_for_a_day(folder):
                continue
            lock = take_lock(folder / _LOCK)
        except (LockedError, NoLocksError, OSError):
            continue  # it is in use, was removed, or belongs to another user
        try:
            yield folder
        finally:
            os.close(lock)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary siblings that killed processes left beside ``path``."""
    for folder in leftovers(path):
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_prefix(path: Path) -> str:
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
    return f".{name}."


@functools.cache
def _machine() -> str:
    """Return eight characters that identify this machine since its last boot."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        identity = socket.gethostname()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def _is_unchanged_for_a_day(folder: Path) -> bool:
    """Whether nothing in a folder changed for a day, by the clock of its file system."""
    with tempfile.TemporaryFile(dir=folder.parent) as file:
        now = os.fstat(file.fileno()).st_mtime
    changes = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
    return now - max(changes) > _DAY_SECONDS


@contextmanager
def prefix_lock(prefix: Path) -> Iterator[None]:
    """Hold the lock for writing the corpus ``prefix``, in ``tokenize`` or ``import``.

    First the files that a killed process left are removed, also a partly published corpus.

    Raises:
        InputError: Another process is writing the corpus, or the file system has no locks.
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
    """Refuse a path that exists, and remove what killed processes left beside it.

    Raises:
        InputError: The path exists.
    """
    if os.path.lexists(path):
        remove_leftovers(path)
        raise InputError(f"{path} exists already; remove it or choose another --output")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that is renamed to ``path`` when the block succeeds.

    The block must sync the files that it writes.

    Raises:
        InputError: ``path`` already exists, or the disk is full.
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
    """Convert errors of writing ``path`` to InputError.

    Raises:
        InputError: The disk is full, or the folder is not writable.
    """
    try:
        yield
    except OSError as error:
        # On a full disk NumPy raises "1000 requested and 10 written", without an errno.
        cut_short = error.errno is None and "requested" in str(error)
        if cut_short or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{path} cannot be written: the disk is full or a quota is exceeded "
                f"({_cause(error)}); make room in {path.parent} or choose another path"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise InputError(
                f"{path} cannot be written ({_cause(error)}); choose another path"
            ) from error
        raise


def _cause(error: OSError) -> str:
    named = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{named}"


def write_whole(path: Path, text: str) -> None:
    """Write or replace a file, so that readers find the old text or the new one, never a part.

    Devices, pipes and names of open files such as /dev/stdout are written to directly. A symbolic
    link is kept, and the file that it points to is replaced.
    """
    is_other = path.exists() and not path.is_file()
    if is_other or (path.is_symlink() and path.absolute().parts[1] in ("dev", "proc")):
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
        return
    path = path.resolve() if path.is_symlink() else path
    try:
        with temporary_sibling(path) as folder:
            unfinished = folder / path.name
            unfinished.write_text(text, encoding="utf-8")
            sync(unfinished)
            unfinished.replace(path)
    except OSError as error:  # of the temporary file, whose name says nothing
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from error


def open_patiently(
    opener: Callable[[], Opened],
    folder: Path,
    seconds: float,
    on_wait: Callable[[str], None] | None = None,
) -> Opened:
    """Call ``opener`` until it finds its files complete.

    A client of a network file system may not see for half a minute what another machine wrote (NFS
    caches missing names, Megatron-Bridge#4207). Listing the folder makes it ask the server again.

    Args:
        opener: Raises UnreadableError, or an OSError of a stale view, while something is missing.
        folder: Where the files are expected.
        seconds: How long to try; 0 tries once.
        on_wait: Called once with what is missing.

    Raises:
        UnreadableError: Something is still missing; the message names the machine and the time.
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
                    f"{error} (on {socket.gethostname()}, after waiting {seconds:.0f} s; if it "
                    f"exists on other machines, mount or copy it here)"
                ) from error
            if on_wait is not None and not has_waited:
                on_wait(str(error))
            has_waited = True
        for parent in (folder, *folder.parents):
            with suppress(OSError):
                list(parent.iterdir())
                break
        time.sleep(pause)
        pause = min(1.5 * pause, 2.0)  # thousands of ranks may ask one server
