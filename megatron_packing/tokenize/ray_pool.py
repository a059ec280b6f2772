# SPDX-License-Identifier: Apache-2.0
"""Deals batches to the workers of a Ray cluster that are alive.

Ray's own restarts hold back the batches of a lost worker until a core is free for it, which may be
never. Here others encode its batches, and the worker that replaces it joins when Ray has a core.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.records.batches import RecordBatch
from megatron_packing.tokenize.encoded_batch import EncodedBatch
from megatron_packing.tokenize.engine import OnWorkers, Results, WorkerCount

logger = logging.getLogger(__name__)

NO_WORKER_SECONDS = 600.0
"""How long a run waits without a worker."""

_BATCHES_PER_WORKER = 2
"""Under way: the one that is encoded, and the next."""
_WINDOW_PER_WORKER = 4
"""Batches that are under way or wait for an earlier one."""
_MOST_LOSSES = 5
"""Workers that one batch may take with it."""
_WAIT_SECONDS = 1.0
"""Between two looks at the cluster."""
_SETTLED_SECONDS = 5.0
"""How long the number of workers stays as it is before a line says so."""
_START_AGAIN_SECONDS = 5.0
"""How long nothing is started after a worker could not be started."""
_CONTINUE = "run the same command again to continue where it stopped"

_Job = tuple[int, RecordBatch]


@dataclass(eq=False, slots=True)
class _Worker:
    actor: Any
    node: str = ""
    """The node's name in Ray; empty until the worker has loaded its tokenizer."""
    num_jobs: int = 0


class RayPool:
    """Workers of a cluster, each with one core, and what they have to encode."""

    def __init__(
        self, ray: Any, start: Callable[[], Any], wanted: int | None, on_workers: OnWorkers | None
    ) -> None:
        """Start nothing yet.

        Args:
            ray: The module.
            start: Starts an actor, whose ``load`` returns its vocabulary size and its node, and
                whose ``encode`` takes a batch.
            wanted: How many workers there should be; None is one per core that is free, and more
                as cores become free.
            on_workers: Called when the number of workers or of their nodes has changed.
        """
        self._ray = ray
        self._start = start
        self._grows = wanted is None
        self._wanted = wanted or 1
        self._on_workers = on_workers
        self._workers: list[_Worker] = []
        self._under_way: dict[Any, tuple[_Worker, _Job | None]] = {}
        """By Ray's reference to the result. A worker without a job is loading its tokenizer."""
        self._again: list[_Job] = []
        """A heap of what lost workers had."""
        self._losses: Counter[int] = Counter()
        """Workers that were lost while they encoded a batch, by its number."""
        self._vocabulary_size = -1
        self._start_error = ""
        self._num_lost = 0
        now = time.monotonic()
        self._look_next = self._start_next = self._alone_since = self._changed = now
        self._count = WorkerCount(0, self._wanted, 0)
        self._told = (0, 0)

    @property
    def vocabulary_size(self) -> int:
        """The tokenizer's highest token + 1. The first call waits for the first worker.

        Raises:
            InputError: No worker can be started.
        """
        while self._vocabulary_size < 0:
            list(self._take())
        return self._vocabulary_size

    def encode(self, batches: Iterable[RecordBatch]) -> Results:
        """Yield each batch and its encoding, in order.

        Raises:
            InputError: A batch took its worker with it several times, or there was no worker for
                ``NO_WORKER_SECONDS``.
        """
        source = enumerate(batches)
        waiting: dict[int, tuple[RecordBatch, EncodedBatch]] = {}
        given = taken = 0
        has_more = True
        while True:
            while (worker := self._free_worker()) is not None:
                if self._again:
                    job = heappop(self._again)
                elif has_more and given - taken < self._count.ready * _WINDOW_PER_WORKER:
                    found = next(source, None)
                    if found is None:
                        has_more = False
                        break
                    job = found
                    given += 1
                else:
                    break
                worker.num_jobs += 1
                self._under_way[worker.actor.encode.remote(job[1])] = (worker, job)
            if taken == given and not has_more:
                self._tell(at_once=True)
                return
            for (number, batch), encoded in self._take():
                waiting[number] = (batch, encoded)
            while taken in waiting:
                yield waiting.pop(taken)
                taken += 1

    def close(self) -> None:
        """End the workers at once, so that others can have their cores."""
        for worker in self._workers:
            self._kill(worker)
        self._workers.clear()
        self._under_way.clear()

    def _kill(self, worker: _Worker) -> None:
        with suppress(self._ray.exceptions.RayError):  # it or the cluster is gone
            self._ray.kill(worker.actor)

    def _free_worker(self) -> _Worker | None:
        ready = (worker for worker in self._workers if worker.node)
        worker = min(ready, key=lambda one: one.num_jobs, default=None)
        return worker if worker is not None and worker.num_jobs < _BATCHES_PER_WORKER else None

    def _take(self) -> Iterator[tuple[_Job, EncodedBatch]]:
        """Wait for results, new workers or losses, for a moment; yield the results."""
        self._look()
        if not self._under_way:  # no worker, and none that starts
            time.sleep(_WAIT_SECONDS)
            return
        ray = self._ray
        found, others = ray.wait(list(self._under_way), num_returns=1, timeout=_WAIT_SECONDS)
        if found and others:
            found += ray.wait(others, num_returns=len(others), timeout=0)[0]
        for ref in found:
            worker, job = self._under_way.pop(ref)
            try:
                result = ray.get(ref)
            except ray.exceptions.RayTaskError:  # not Ray's: what the encoder raised
                raise
            except ray.exceptions.RayError as error:
                self._lose(worker, job, error)
                continue
            if job is not None:
                worker.num_jobs -= 1
                yield job, result
            elif worker in self._workers:
                self._vocabulary_size, worker.node = result
                self._start_error = ""
        self._recount()

    def _lose(self, worker: _Worker, job: _Job | None, error: Exception) -> None:
        """Take back a job of a lost worker. Each of its jobs comes here by itself."""
        if job is not None:
            heappush(self._again, job)
        if worker not in self._workers:
            return
        # The first of its jobs that comes is the one that it was encoding.
        self._workers.remove(worker)
        self._kill(worker)  # it may be out of reach and alive
        if worker.node:
            self._num_lost += 1
            self._alone_since = time.monotonic()
        if job is None:
            self._start_error = f" ({_last_line(error)})"
            self._start_next = time.monotonic() + _START_AGAIN_SECONDS
            if getattr(error, "actor_init_failed", False) and not self._workers:
                raise InputError(
                    f"no worker can be started on the Ray cluster{self._start_error}; mend that, "
                    f"and {_CONTINUE}"
                )
            return
        number, batch = job
        self._losses[number] += 1
        if self._losses[number] >= _MOST_LOSSES:
            raise InputError(
                f"{_MOST_LOSSES} workers on the Ray cluster were lost one after another, each "
                f"while it encoded records {batch.first:,} to "
                f"{batch.first + batch.num_records - 1:,} of input {batch.input + 1:,}, most "
                f"likely because memory ran out ({_last_line(error)}); give nodes with more "
                f"memory, or a smaller --max-record-bytes, and {_CONTINUE}"
            )

    def _look(self) -> None:
        """Once a second: start what is missing, say how many there are, or end the run."""
        now = time.monotonic()
        if now < self._look_next:
            return
        self._look_next = now + _WAIT_SECONDS
        if self._grows:
            self._want_free_cores()
        if now >= self._start_next:
            for _ in range(self._wanted - len(self._workers)):
                worker = _Worker(self._start())
                self._workers.append(worker)
                self._under_way[worker.actor.load.remote()] = (worker, None)
        self._recount()
        self._tell()
        if not self._count.ready and now - self._alone_since >= NO_WORKER_SECONDS:
            raise InputError(
                f"the Ray cluster has had no worker for {NO_WORKER_SECONDS / 60:g} minutes"
                f"{self._start_error}; add nodes or wait until cores are free, and {_CONTINUE}"
            )

    def _want_free_cores(self) -> None:
        """Ray says some time later what is free, so workers that start may take what it says."""
        free = int(self._ray.available_resources().get("CPU", 0))
        cores = int(self._ray.cluster_resources().get("CPU", 0))
        starting = sum(not worker.node for worker in self._workers)
        room = min(free - starting, cores - len(self._workers))
        self._wanted = max(self._wanted, len(self._workers) + room)

    def _recount(self) -> None:
        nodes = [worker.node for worker in self._workers if worker.node]
        count = WorkerCount(len(nodes), self._wanted, len(set(nodes)))
        if count != self._count:
            self._count = count
            self._changed = time.monotonic()
            if self._on_workers is not None:
                self._on_workers(count)

    def _tell(self, at_once: bool = False) -> None:
        """Log that workers were lost, are missing, or are complete again."""
        count = self._count
        now = (self._num_lost, count.wanted - count.ready)
        lost = self._num_lost - self._told[0]
        settled = time.monotonic() - self._changed >= _SETTLED_SECONDS
        if now == self._told or not (settled or (lost and at_once)):
            return
        self._told = now
        words = f"{counted(lost, 'worker')} lost, whose batches are encoded again; " if lost else ""
        words += str(count)
        if not count.ready:
            words += f"; waiting up to {NO_WORKER_SECONDS / 60:g} minutes for a core"
        elif count.ready < count.wanted:
            words += "; more start when the cluster has cores for them"
        logger.warning(f"Ray cluster: {words}")


def _last_line(error: Exception) -> str:
    """Ray's messages have many lines, and end with the cause."""
    return (str(error).strip() or repr(error)).splitlines()[-1].strip()
