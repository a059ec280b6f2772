# SPDX-License-Identifier: Apache-2.0
"""Encodes batches in worker processes of this machine."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from megatron_packing.errors import InputError
from megatron_packing.records.batches import RecordBatch
from megatron_packing.tokenize.encoded_batch import EncodedBatch
from megatron_packing.tokenize.encoder import Encoder
from megatron_packing.tokenize.engine import PARALLELISM, Encoders, Results, in_order
from megatron_packing.tokenize.options import EncoderOptions

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_SECONDS_FOR_PARENT = 2.0


class ProcessEngine:
    """Worker processes, each with an encoder of its own."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    @contextmanager
    def __call__(self, options: EncoderOptions) -> Iterator[Encoders]:
        # A file, not a pipe: a worker that dies early would leave a full pipe blocked forever.
        # The file has no name, so nothing is left if this process is killed.
        with tempfile.TemporaryFile() as file:
            pickle.dump(options, file)
            file.flush()
            with self._pool(f"/proc/{os.getpid()}/fd/{file.fileno()}") as pool:
                yield _Workers(pool, self._workers)

    @contextmanager
    def _pool(self, options_file: str) -> Iterator[ProcessPoolExecutor]:
        # Spawned, not forked: the threads of a tokenizer do not survive a fork.
        with _hangup_blocked():
            pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(options_file, os.getpid()),
            )
        not_ours = set(multiprocessing.active_children())
        try:
            yield pool
        except BrokenProcessPool as error:
            _close_reader(pool)
            raise InputError(
                "a tokenizing worker died, most likely because memory ran out; run the same "
                "command with fewer --workers"
            ) from error
        except BaseException:
            # A worker with a result to hand over would wait forever for this process to take it.
            for worker in set(multiprocessing.active_children()) - not_ours:
                worker.kill()
            _close_reader(pool)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _close_reader(pool: ProcessPoolExecutor) -> None:
    """Let ``shutdown`` of a pool of dead workers return.

    Before Python 3.11.5 (cpython issue 94777) it waits forever if the pipe to the workers is full,
    because this process holds the pipe's reading end open.
    """
    if sys.version_info < (3, 11, 5):
        queue = vars(pool).get("_call_queue")
        if queue is not None:
            queue._reader.close()


class _Workers:
    def __init__(self, pool: ProcessPoolExecutor, number: int) -> None:
        self._pool = pool
        self._number = number
        try:
            self.vocabulary_size = pool.submit(_vocabulary_size).result()
        except BrokenProcessPool as error:
            raise InputError(
                "no tokenizing worker could be started; a script that tokenizes with several "
                "workers must do so under: if __name__ == '__main__'"
            ) from error

    def encode(self, batches: Iterable[RecordBatch]) -> Results:
        def submit(batch: RecordBatch) -> Future[EncodedBatch]:
            return self._pool.submit(_encode, batch)

        return in_order(batches, self._number, submit, Future.result)


@contextmanager
def _hangup_blocked() -> Iterator[None]:
    """Block SIGHUP in the process that multiprocessing starts to clean up after this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_options: EncoderOptions | None = None
_encoder: Encoder | None = None


def _start_worker(options_file: str, parent: int) -> None:
    global _options
    _die_with(parent)
    # Ctrl-C, a closed terminal and a scheduler signal all processes. The parent handles these
    # signals and then kills the workers. A broken pool, however, ends its workers by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_late)
    _options = pickle.loads(Path(options_file).read_bytes())
    os.environ[PARALLELISM] = "false"


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends for any reason."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent has already ended
        os._exit(1)


def _exit_late(*_: object) -> None:
    time.sleep(_SECONDS_FOR_PARENT)
    os._exit(128 + signal.SIGTERM)


def _worker_encoder() -> Encoder:
    """Return this worker's encoder.

    The first task makes it, not the initializer of the pool, whose errors do not reach the parent.
    """
    global _encoder
    if _encoder is None:
        if _options is None:
            raise AssertionError("the worker was not started")
        _encoder = Encoder(_options)
    return _encoder


def _vocabulary_size() -> int:
    return _worker_encoder().vocabulary_size


def _encode(batch: RecordBatch) -> EncodedBatch:
    return _worker_encoder().encode(batch)
