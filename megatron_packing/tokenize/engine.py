# SPDX-License-Identifier: Apache-2.0
"""Encodes batches in other processes and gives the results in the order of the batches."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from megatron_packing.errors import InputError
from megatron_packing.records.batches import RecordBatch
from megatron_packing.tokenize.encoder import EncodedBatch, Encoder, EncoderOptions

_BATCHES_PER_WORKER = 4
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_SECONDS_FOR_PARENT = 2.0

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
        with tempfile.TemporaryFile() as file:
            # Not handed over through a pipe: a worker that dies early would leave it full for ever.
            # Without a name: nothing is left of it if this process is killed.
            pickle.dump(options, file)
            file.flush()
            yield from self._in_pool(f"/proc/{os.getpid()}/fd/{file.fileno()}", batches)

    def _in_pool(self, options_file: str, batches: Iterable[RecordBatch]) -> Results:
        # Fresh processes: a tokenizer's own threads do not survive a fork.
        with _hangup_blocked():
            pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(options_file, os.getpid()),
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
            _let_end(pool)
            raise InputError(
                "a tokenizing worker died, most likely for want of memory; run the same command "
                "with fewer --workers"
            ) from error
        except BaseException:
            # A worker that has a result to hand over would wait for ever for it to be taken.
            for worker in set(multiprocessing.active_children()) - not_ours:
                worker.kill()
            _let_end(pool)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _let_end(pool: ProcessPoolExecutor) -> None:
    """Keep ``shutdown`` of a pool whose workers have died from waiting forever.

    Before Python 3.11.5 (cpython issue 94777) it does if the pipe to the workers is full: this
    process, which has the pipe's other end too, still waits for a reader.
    """
    if sys.version_info < (3, 11, 5):
        queue = vars(pool).get("_call_queue")
        if queue is not None:
            queue._reader.close()


@contextmanager
def _hangup_blocked() -> Iterator[None]:
    """Keep SIGHUP from the process that multiprocessing starts to clean up after this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does."""
    before: dict[signal.Signals, Any] = {}

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a scheduler may send it again
        raise KeyboardInterrupt

    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    before[number] = signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _start_worker(options_file: str, parent: int) -> None:
    global _encoder
    _end_with(parent)
    # Ctrl-C, a closed terminal and a scheduler's end reach all processes, and are the parent's to
    # handle, which then kills the workers. A pool that breaks ends its workers by SIGTERM, though.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_late)
    options: EncoderOptions = pickle.loads(Path(options_file).read_bytes())
    os.environ[_PARALLELISM] = "false"
    _encoder = Encoder(options)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def _end_late(*_: object) -> None:
    time.sleep(_SECONDS_FOR_PARENT)
    os._exit(128 + signal.SIGTERM)


def _encode_nothing() -> None:
    """Show that a worker lives."""


def _encode_in_worker(batch: RecordBatch) -> EncodedBatch:
    if _encoder is None:
        raise AssertionError("the worker was not started")
    return _encoder.encode(batch)
