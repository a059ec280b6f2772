# SPDX-License-Identifier: Apache-2.0
"""The order in which a pipeline stage computes micro-batches.

Two schedules, as in ``megatron/core/pipeline_parallel/schedules.py``: one forward, one backward
(1F1B, arXiv 2104.04473), and its interleaved form, in which each stage holds several chunks of the
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Pass(NamedTuple):
    """A forward or a backward pass of one micro-batch through one model chunk of a stage."""

    is_backward: bool
    chunk: int
    micro_batch: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """A pipeline's schedule."""

    num_stages: int
    num_chunks: int
    """Model chunks of each stage; 1 for 1F1B."""
    num_micro_batches: int

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ValueError: A size is below 1, or micro-batches of an interleaved schedule are no
                multiple of the stages.
        """
        if min(self.num_stages, self.num_chunks, self.num_micro_batches) < 1:
            raise ValueError(f"{self} has a size below 1")
        if self.num_chunks > 1 and self.num_micro_batches % self.num_stages:
            raise ValueError(
                f"{self.num_micro_batches} micro-batches are no multiple of "
                f"{self.num_stages} stages, as the interleaved schedule needs"
            )

    def order_of(self, stage: int) -> list[Pass]:
        """All passes of a stage, in the order in which it computes them."""
        table = self._table()
        backward = [
            Pass(True, self.num_chunks - 1 - chunk, micro_batch) for micro_batch, chunk in table
        ]
        forward = [Pass(False, chunk, micro_batch) for micro_batch, chunk in table]
        warm_up = self.num_stages - 1 - stage
        if self.num_chunks > 1:
            warm_up = 2 * warm_up + (self.num_chunks - 1) * self.num_stages
        warm_up = min(warm_up, len(table))
        order = forward[:warm_up]
        for number in range(warm_up, len(table)):
            order += (forward[number], backward[number - warm_up])
        return order + backward[len(table) - warm_up :]

    def _table(self) -> list[tuple[int, int]]:
        """Micro-batch and chunk of each forward pass, in groups of as many as there are stages."""
        group = self.num_stages if self.num_chunks > 1 else self.num_micro_batches
        return [
            (micro_batch, chunk)
            for first in range(0, self.num_micro_batches, group)
            for chunk in range(self.num_chunks)
            for micro_batch in range(first, first + group)
        ]

    def needs(self, stage: int, one: Pass) -> tuple[int, Pass] | None:
        """The pass, and its stage, whose result a pass waits for; None for the first."""
        last, last_chunk = self.num_stages - 1, self.num_chunks - 1
        if not one.is_backward:
            if stage > 0:
                return stage - 1, one
            return (last, one._replace(chunk=one.chunk - 1)) if one.chunk > 0 else None
        if stage < last:
            return stage + 1, one
        if one.chunk < last_chunk:
            return 0, one._replace(chunk=one.chunk + 1)
        return stage, one._replace(is_backward=False)

    def in_a_possible_order(self) -> Iterator[tuple[int, Pass]]:
        """Yield the passes of all stages so that none comes before what it needs.

        Each stage keeps its own order. Durations do not matter: they decide when a pass runs, not
        what it needs.
        """
        orders = [self.order_of(stage) for stage in range(self.num_stages)]
        reached = [0] * self.num_stages
        done: set[tuple[int, Pass]] = set()
        left = sum(map(len, orders))
        while left:
            before = left
            for stage, order in enumerate(orders):
                while reached[stage] < len(order):
                    one = order[reached[stage]]
                    needed = self.needs(stage, one)
                    if needed is not None and needed not in done:
                        break
                    done.add((stage, one))
                    reached[stage] += 1
                    left -= 1
                    yield stage, one
            assert left < before, "a schedule never waits for itself"
