# SPDX-License-Identifier: Apache-2.0
"""Encodes batches on a Ray cluster: the one that RAY_ADDRESS names, or else a local one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

from megatron_packing.counted import counted
from megatron_packing.errors import InputError, missing
from megatron_packing.records.batches import RecordBatch
from megatron_packing.tokenize.encoded_batch import EncodedBatch
from megatron_packing.tokenize.encoder import Encoder
from megatron_packing.tokenize.engine import PARALLELISM, Encoders, Results, in_order
from megatron_packing.tokenize.options import EncoderOptions

_WAIT_SECONDS = 10


def _free_cores(ray: Any, wanted: int) -> int:
    """Return the number of free cores in the cluster.

    Ray frees the cores of workers that just ended some time later, so this waits for them if there
    are too few.
    """
    started = time.monotonic()
    while True:
        cores = int(ray.available_resources().get("CPU", 0))
        can_come = int(ray.cluster_resources().get("CPU", 0)) >= wanted > cores
        if not can_come or time.monotonic() - started >= _WAIT_SECONDS:
            return cores
        time.sleep(0.2)


class _Worker:
    """An actor with an encoder on a node of the cluster."""

    def __init__(self, options: EncoderOptions) -> None:
        os.environ[PARALLELISM] = "false"
        self._options = options
        self._encoder: Encoder | None = None

    def vocabulary_size(self) -> int:
        return self._ready().vocabulary_size

    def encode(self, batch: RecordBatch) -> EncodedBatch:
        return self._ready().encode(batch)

    def _ready(self) -> Encoder:
        # Not in __init__: Ray reports an error there as a lost actor.
        if self._encoder is None:
            self._encoder = Encoder(self._options)
        return self._encoder


class _Actors:
    def __init__(self, ray: Any, actors: list[Any]) -> None:
        self._ray = ray
        self._actors = actors
        sizes = [actor.vocabulary_size.remote() for actor in actors]  # all begin to load
        self.vocabulary_size = int(ray.get(sizes[0]))

    def encode(self, batches: Iterable[RecordBatch]) -> Results:
        """Deal batches to the actors in turn."""
        turns = cycle(self._actors)

        def submit(batch: RecordBatch) -> Any:
            return next(turns).encode.remote(batch)

        return in_order(batches, len(self._actors), submit, self._ray.get)


class RayEngine:
    """Actors, each with one core. Ray starts them again on another node if theirs is lost."""

    def __init__(self, workers: int | None) -> None:
        """Choose the number of actors.

        Args:
            workers: How many; None starts one per core of the cluster.

        Raises:
            InputError: Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise missing("--engine ray", "ray", "ray") from error
        self._ray: Any = ray
        self._workers = workers

    @contextmanager
    def __call__(self, options: EncoderOptions) -> Iterator[Encoders]:
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
            if not 0 < count <= cores:  # an actor without a core waits forever
                raise InputError(
                    f"the Ray cluster has {counted(cores, 'free core')} for "
                    f"{counted(max(count, 1), 'worker')}; wait until more are free, or give fewer "
                    f"--workers"
                )
            actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Worker)
            yield _Actors(ray, [actor.remote(options) for _ in range(count)])
        except ray.exceptions.RayActorError as error:
            raise InputError(
                f"a worker on the Ray cluster was lost ({error}); run the same command again to "
                f"continue where it stopped"
            ) from error
        except ray.exceptions.RayTaskError as error:
            cause = error.as_instanceof_cause()
            raise InputError(str(error.cause)) from (
                error if isinstance(cause, InputError) else cause
            )
        finally:
            if ours:
                ray.shutdown()
