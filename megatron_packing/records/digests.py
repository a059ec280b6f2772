# SPDX-License-Identifier: Apache-2.0
"""SHA-256 of each input: of local files read beside the work, of remote ones while they come in."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from megatron_packing.records.inputs import InputFile
from megatron_packing.records.storage import local_sha256


class Digests:
    """What is known of the content of the inputs."""

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
        """Take note of a remote input that was read wholly."""
        self._downloaded[str(number)] = (digest, size)

    def all(self) -> list[tuple[str, int]]:
        """The digest and the bytes of each input, as soon as they are known.

        Raises:
            StorageError: One could not be read.
        """
        return [
            (self._local[number].result(), file.size)
            if number in self._local
            else tuple_of(self._downloaded[str(number)])
            for number, file in enumerate(self._inputs)
        ]


def tuple_of(pair: Sequence[str | int]) -> tuple[str, int]:
    """A digest and a size that went through JSON."""
    digest, size = pair
    return str(digest), int(size)


@contextmanager
def reading_digests(
    inputs: Sequence[InputFile], downloaded: dict[str, tuple[str, int]]
) -> Iterator[Digests]:
    """Read local inputs for their digests while the block runs.

    Args:
        inputs: All of them.
        downloaded: By its number, the digest and the size of each remote input that was read, which
            is added to.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        local = {
            number: pool.submit(local_sha256, file.name, stopped.is_set)
            for number, file in enumerate(inputs)
            if file.is_local
        }
        try:
            yield Digests(inputs, downloaded, local)
        finally:
            stopped.set()  # those that have not begun end at once too
