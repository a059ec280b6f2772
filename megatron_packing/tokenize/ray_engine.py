# SPDX-License-Identifier: Apache-2.0
"""Encodes batches on a Ray cluster: the one that RAY_ADDRESS names, else one of this machine."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from megatron_packing.errors import InputError, missing
from megatron_packing.records.batches import RecordBatch
from megatron_packing.tokenize.encoder import EncodedBatch, Encoder, EncoderOptions
from megatron_packing.tokenize.engine import Results

_BATCHES_PER_WORKER = 4


_FREE_SECONDS = 10


def _free_cores(ray: Any, wanted: int) -> int:
    """The free cores of the cluster; it counts those of workers that just ended some time later."""
    started = time.monotonic()
    while True:
        cores = int(ray.available_resources().get("CPU", 0))
        can_come = int(ray.cluster_resources().get("CPU", 0)) >= wanted > cores
        if not can_come or time.monotonic() - started >= _FREE_SECONDS:
            return cores
        time.sleep(0.2)


class _Worker:
    """An actor: a tokenizer, ready, on some node."""

    def __init__(self, options: EncoderOptions) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._encoder = Encoder(options)

    def encode(self, batch: RecordBatch) -> EncodedBatch:
        return self._encoder.encode(batch)


class RayEngine:
    """Actors, each with a core of its own, started anew by Ray where a node is lost."""

    def __init__(self, workers: int | None) -> None:
        """Take so many actors; None is one for each core of the cluster.

        Raises:
            InputError: Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise missing("--engine ray", "ray", "ray") from error
        self._ray: Any = ray
        self._workers = workers

    def __call__(self, options: EncoderOptions, batches: Iterable[RecordBatch]) -> Results:
        ray = self._ray
        ours = not ray.is_initialized()
        if ours:
            try:
                ray.init(logging_level="error", log_to_driver=False)
            except ConnectionError as error:
                raise InputError(f"the Ray cluster cannot be reached ({error})") from error
        try:
            cores = _free_cores(ray, self._workers or 1)
            count = self._workers or cores
            if not 0 < count <= cores:  # an actor without a core waits for ever
                raise InputError(
                    f"the Ray cluster has {cores} free cores for {max(count, 1)} workers; wait for "
                    f"it, or give fewer --workers"
                )
            actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Worker)
            yield from self._encode([actor.remote(options) for _ in range(count)], batches)
        except ray.exceptions.RayActorError as error:
            raise InputError(
                f"a worker on the Ray cluster was lost ({error}); run the same command again, it "
                f"goes on where it stopped"
            ) from error
        except ray.exceptions.RayTaskError as error:
            cause = error.as_instanceof_cause()
            raise InputError(str(error.cause)) from (
                error if isinstance(cause, InputError) else cause
            )
        finally:
            if ours:
                ray.shutdown()

    def _encode(self, actors: list[Any], batches: Iterable[RecordBatch]) -> Results:
        """Deal batches to the actors in turn; results are taken in the same order."""
        pending: deque[tuple[RecordBatch, Any]] = deque()
        for number, batch in enumerate(batches):
            if len(pending) >= len(actors) * _BATCHES_PER_WORKER:
                done, result = pending.popleft()
                yield done, self._ray.get(result)
            pending.append((batch, actors[number % len(actors)].encode.remote(batch)))
        while pending:
            done, result = pending.popleft()
            yield done, self._ray.get(result)
