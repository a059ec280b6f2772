# SPDX-License-Identifier: Apache-2.0
"""Encodes batches on a Ray cluster: the one that RAY_ADDRESS names, or else a local one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from megatron_packing.errors import InputError, missing
from megatron_packing.records.batches import RecordBatch
from megatron_packing.tokenize.encoded_batch import EncodedBatch
from megatron_packing.tokenize.encoder import Encoder
from megatron_packing.tokenize.engine import PARALLELISM, Encoders, OnWorkers
from megatron_packing.tokenize.options import EncoderOptions
from megatron_packing.tokenize.ray_pool import RayPool
from megatron_packing.tokenizers.source import first_line


class _Worker:
    """An actor with an encoder on a node of the cluster."""

    def __init__(self, options: EncoderOptions) -> None:
        os.environ[PARALLELISM] = "false"
        self._options = options
        self._encoder: Encoder | None = None

    def load(self) -> tuple[int, str]:
        """Load the tokenizer; return its vocabulary size and the name of this node."""
        import ray

        return self._ready().vocabulary_size, ray.get_runtime_context().get_node_id()

    def encode(self, batch: RecordBatch) -> EncodedBatch:
        return self._ready().encode(batch)

    def _ready(self) -> Encoder:
        # Not in __init__: Ray reports an error there as a lost actor.
        if self._encoder is None:
            self._encoder = Encoder(self._options)
        return self._encoder


class RayEngine:
    """Actors, each with one core. Others take over what a lost one had."""

    def __init__(self, workers: int | None, on_workers: OnWorkers | None = None) -> None:
        """Choose the number of actors.

        Args:
            workers: How many; None starts one per core of the cluster that is free.
            on_workers: Called when the number of actors or of their nodes has changed.

        Raises:
            InputError: Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise missing("--engine ray", "ray", "ray") from error
        self._ray: Any = ray
        self._workers = workers
        self._on_workers = on_workers

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
            # Another worker is started where one is lost, not the same one again: see ray_pool.
            actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
            # Held as long as workers may start: a tokenizer is some megabytes, and Ray deletes an
            # object that nothing refers to.
            held = ray.put(options)
            pool = RayPool(ray, lambda: actor.remote(held), self._workers, self._on_workers)
            with closing(pool):
                yield pool
        except ray.exceptions.RayTaskError as error:
            cause = error.as_instanceof_cause()
            raise InputError(str(error.cause)) from (
                error if isinstance(cause, InputError) else cause
            )
        except ray.exceptions.RayError as error:
            raise InputError(
                f"the Ray cluster failed ({first_line(error)}); run the same command again to "
                f"continue where it stopped"
            ) from error
        finally:
            if ours:
                ray.shutdown()
