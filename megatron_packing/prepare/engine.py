"""Encodes batches in other processes and gives the results in the order of the batches."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from megatron_packing.errors import InputError
from megatron_packing.prepare.batches import RecordBatch
from megatron_packing.prepare.encoder import EncodedBatch, Encoder, EncoderOptions

_BATCHES_PER_WORKER = 4
_PARALLELISM = "TOKENIZERS_PARALLELISM"

Results = Generator[tuple[RecordBatch, EncodedBatch], None, None]


class Engine(Protocol):
    """Encodes batches, a bounded number of them at a time."""

    def __call__(self, options: EncoderOptions, batches: Iterable[RecordBatch]) -> Results:
        """Yield each batch with what it was encoded to, in order."""


class LocalEngine:
    """Worker processes of this machine; a single one is this process itself."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def __call__(self, options: EncoderOptions, batches: Iterable[RecordBatch]) -> Results:
        if self._workers == 1:
            return _in_this_process(options, batches)
        return self._in_processes(options, batches)

    def _in_processes(self, options: EncoderOptions, batches: Iterable[RecordBatch]) -> Results:
        with tempfile.NamedTemporaryFile(prefix="megatron-packing-") as file:
            # Not handed over through a pipe: a worker that dies early would leave it full for ever.
            pickle.dump(options, file)
            file.flush()
            yield from self._in_pool(file.name, batches)

    def _in_pool(self, options_file: str, batches: Iterable[RecordBatch]) -> Results:
        # Fresh processes: a tokenizer's own threads do not survive a fork.
        pool = ProcessPoolExecutor(
            self._workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(options_file,),
        )
        pending: deque[tuple[RecordBatch, Future[EncodedBatch]]] = deque()
        not_ours = set(multiprocessing.active_children())
        try:
            _await_start(pool)
            for batch in batches:
                pending.append((batch, pool.submit(_encode_in_worker, batch)))
                if len(pending) >= self._workers * _BATCHES_PER_WORKER:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a tokenizing worker died, most likely for want of memory; run the same command "
                "with fewer --workers"
            ) from error
        except BaseException:
            # A worker that has a result to hand over would wait for ever for it to be taken.
            for worker in set(multiprocessing.active_children()) - not_ours:
                worker.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _await_start(pool: ProcessPoolExecutor) -> None:
    try:
        pool.submit(_encode_nothing).result()
    except BrokenProcessPool as error:
        raise InputError(
            "no tokenizing worker could be started; a script that tokenizes with several workers "
            "must do so under: if __name__ == '__main__'"
        ) from error


def _in_this_process(options: EncoderOptions, batches: Iterable[RecordBatch]) -> Results:
    encoder = Encoder(options)
    for batch in batches:
        with _one_thread():
            encoded = encoder.encode(batch)
        yield batch, encoded


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the library's own threads off: workers are the parallelism."""
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLELISM]
        else:
            os.environ[_PARALLELISM] = before


_encoder: Encoder | None = None


def _start_worker(options_file: str) -> None:
    global _encoder
    options: EncoderOptions = pickle.loads(Path(options_file).read_bytes())
    os.environ[_PARALLELISM] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _encoder = Encoder(options)


def _encode_nothing() -> None:
    """Show that a worker lives."""


def _encode_in_worker(batch: RecordBatch) -> EncodedBatch:
    if _encoder is None:
        raise AssertionError("the worker was not started")
    return _encoder.encode(batch)
