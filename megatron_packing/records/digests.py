# SPDX-License-Identifier: Apache-2.0
"""Computes the SHA-256 of each input.

Local files are read in a thread beside the tokenizer; remote files are hashed as they download.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from megatron_packing.records import storage
from megatron_packing.records.input_file import InputFile


class Digests:
    """The digests of all inputs."""

    def __init__(
        self,
        inputs: Sequence[InputFile],
        downloaded: dict[str, tuple[str, int]],
        local: dict[int, Future[str]],
    ) -> None:
        self._inputs = inputs
        self._downloaded = downloaded
        self._local = local

    def add(self, number: int, digest: str, size: int) -> None:
        """Record the digest and size of a remote input that was read completely."""
        self._downloaded[str(number)] = (digest, size)

    def all(self) -> list[tuple[str, int]]:
        """Wait for the digest of every input; return each with the size in bytes.

        Raises:
            StorageError: An input could not be read.
        """
        return [
            (self._local[number].result(), file.size)
            if number in self._local
            else tuple_of(self._downloaded[str(number)])
            for number, file in enumerate(self._inputs)
        ]


def tuple_of(pair: Sequence[str | int]) -> tuple[str, int]:
    """Return a digest and a size that were stored as JSON."""
    digest, size = pair
    return str(digest), int(size)


@contextmanager
def reading_digests(
    inputs: Sequence[InputFile], downloaded: dict[str, tuple[str, int]]
) -> Iterator[Digests]:
    """Compute the digests of local inputs while the block runs.

    Args:
        inputs: All inputs.
        downloaded: Maps the number of each remote input that was read to its digest and size.
            ``Digests.add`` adds to it.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        local = {
            number: pool.submit(_local_sha256, file.name, stopped.is_set)
            for number, file in enumerate(inputs)
            if file.is_local
        }
        try:
            yield Digests(inputs, downloaded, local)
        finally:
            stopped.set()  # those that have not started end at once too


def _local_sha256(name: str, stopped: Callable[[], bool]) -> str:
    """Return the SHA-256 of a local file, or of the names and content of a folder's files.

    Args:
        name: Its path, or a ``file:`` URL.
        stopped: Called between blocks. Once it returns True, the result is not used.
    """
    digest = hashlib.sha256()
    with storage.reading(name):
        system, path = storage.file_system(name)
        is_folder = Path(path).is_dir()
        for one in sorted(system.find(path)) if is_folder else [path]:
            if is_folder:
                digest.update(one.removeprefix(path).encode())
            with Path(one).open("rb") as file:
                while not stopped() and (block := file.read(1 << 20)):
                    digest.update(block)
    return digest.hexdigest()
