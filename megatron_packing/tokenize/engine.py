# SPDX-License-Identifier: Apache-2.0
"""What encodes the batches of a run: encoders, and the engine that starts them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from megatron_packing.counted import counted
from megatron_packing.records.batches import RecordBatch
from megatron_packing.tokenize.encoded_batch import EncodedBatch
from megatron_packing.tokenize.encoder import Encoder
from megatron_packing.tokenize.options import EncoderOptions

PARALLELISM = "TOKENIZERS_PARALLELISM"
"""The environment variable that turns the threads of the library ``tokenizers`` on or off."""

_BATCHES_PER_WORKER = 4

Results = Generator[tuple[RecordBatch, EncodedBatch], None, None]

_Handle = TypeVar("_Handle")


@dataclass(frozen=True, slots=True)
class WorkerCount:
    """The workers of a cluster, which come and go."""

    ready: int
    """Workers that encode."""
    wanted: int
    """Those that wait for a core, or load their tokenizer, included."""
    nodes: int
    """Machines that the ready ones run on."""

    def __str__(self) -> str:
        """``3 workers on 2 nodes``, or ``2 of 3 workers on 1 node``."""
        ready = f"{self.ready:,} of " if self.ready < self.wanted else ""
        return f"{ready}{counted(self.wanted, 'worker')} on {counted(self.nodes, 'node')}"


OnWorkers = Callable[[WorkerCount], None]


class Encoders(Protocol):
    """Started encoders. The results do not depend on how many there are, or where they run."""

    @property
    def vocabulary_size(self) -> int:
        """The tokenizer's highest token + 1, special tokens included."""

    def encode(self, batches: Iterable[RecordBatch]) -> Results:
        """Yield each batch and its encoding, in order, with a bounded number under way."""


class Engine(Protocol):
    """Starts encoders and ends them."""

    def __call__(self, options: EncoderOptions) -> AbstractContextManager[Encoders]:
        """Start encoders, which end with the block.

        Raises:
            InputError: The tokenizer or the template cannot be used, or no encoder can be started.
        """


def in_order(
    batches: Iterable[RecordBatch],
    num_workers: int,
    submit: Callable[[RecordBatch], _Handle],
    take: Callable[[_Handle], EncodedBatch],
) -> Results:
    """Hand batches to workers and yield the results in the order of the batches.

    Args:
        batches: What is encoded.
        num_workers: At most four batches per worker are under way.
        submit: Hands a batch to a worker and returns a handle of its result.
        take: Waits for a result.
    """
    pending: deque[tuple[RecordBatch, _Handle]] = deque()
    for batch in batches:
        pending.append((batch, submit(batch)))
        if len(pending) >= num_workers * _BATCHES_PER_WORKER:
            done, handle = pending.popleft()
            yield done, take(handle)
    while pending:
        done, handle = pending.popleft()
        yield done, take(handle)


class InProcessEngine:
    """One encoder, in this process."""

    @contextmanager
    def __call__(self, options: EncoderOptions) -> Iterator[Encoders]:
        yield _OneEncoder(Encoder(options))


class _OneEncoder:
    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.vocabulary_size = encoder.vocabulary_size

    def encode(self, batches: Iterable[RecordBatch]) -> Results:
        for batch in batches:
            with _one_thread():
                encoded = self._encoder.encode(batch)
            yield batch, encoded


@contextmanager
def _one_thread() -> Iterator[None]:
    """Turn off the threads of ``tokenizers``, because parallelism comes from workers."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before
