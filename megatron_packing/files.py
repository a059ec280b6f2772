"""Files and folders that exist whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from megatron_packing.errors import InputError, UnreadableError

Opened = TypeVar("Opened")

_STALE = (errno.ESTALE, errno.ENOENT, errno.EIO)


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

    What is to stay is renamed out of it. The folder that holds ``path`` is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Raise InputError where there is something at ``path``."""
    if path.exists():
        raise InputError(f"{path} exists already; remove it or choose another --output")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends well: whole or not at all.

    The block syncs the files that it writes.

    Raises:
        InputError: There is something at ``path`` already.
    """
    refuse_existing(path)
    with temporary_sibling(path) as folder:
        unfinished = folder / path.name
        unfinished.mkdir()
        yield unfinished
        sync(unfinished)
        try:
            unfinished.rename(path)
        except OSError:
            refuse_existing(path)
            raise
    sync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a file, or replace it, so that readers find the old text or the new, never a part."""
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
