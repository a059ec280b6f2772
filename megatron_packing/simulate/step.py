# SPDX-License-Identifier: Apache-2.0
"""Predicts training steps: what they take, and where the time goes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from megatron_packing.planning.rows import Rows
from megatron_packing.simulate.costs import Costs, PassSeconds
from megatron_packing.simulate.play import Played, TimedPass, play
from megatron_packing.simulate.schedule import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Where the seconds of a step go: the mean over all GPUs and steps. They add up to the step."""

    linear: float
    """Linear layers over documents."""
    padding: float
    """Linear layers over padding."""
    attention: float
    communication: float
    """Tensor and expert parallelism."""
    overhead: float
    """What a layer takes whatever the row."""
    experts_wait: float
    """Waiting for the slowest of the ranks that share experts."""
    pipeline: float
    """A stage waits for others of its replica: the pipeline's bubble."""
    ranks_wait: float
    """A replica waits for the slowest one."""
    update: float
    """Gradients and parameters on the way while nothing else runs, and the optimizer."""

    @property
    def step(self) -> float:
        """Seconds of the step."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Predicted steps, and the work that they are made of."""

    parts: Parts
    steps_seconds: NDArray[np.float64]
    """Shape ``(num_steps,)``."""
    equal_seconds: float
    """What a step would take if all of its micro-batches were equal: the mean row."""
    rank_seconds: NDArray[np.float64]
    """Shape ``(num_steps, num_ranks)``: when each data-parallel rank's pipeline has ended."""
    row_seconds: NDArray[np.float64]
    """Shape ``(num_steps, num_ranks, num_micro_batches)``: forward and backward pass of the row in
    all stages, which is what balance evens out."""
    timeline: list[TimedPass]
    """Of the first rank in the first step."""

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step."""
        return float(self.steps_seconds.mean())

    @property
    def bubble_share(self) -> float:
        """Share of the step in which a stage waits for others of its replica."""
        return self.parts.pipeline / self.step_seconds

    @property
    def idle_share(self) -> float:
        """Share of the step in which a GPU waits for others."""
        parts = self.parts
        return (parts.pipeline + parts.ranks_wait + parts.experts_wait) / self.step_seconds

    @property
    def slowest_rank(self) -> float:
        """The slowest rank's time over the mean of all, averaged over steps."""
        return float((self.rank_seconds.max(axis=1) / self.rank_seconds.mean(axis=1)).mean())

    @property
    def slowest_micro_batch(self) -> float:
        """The slowest rank's micro-batches over the mean, where ranks meet in each of them."""
        slowest = self.row_seconds.max(axis=1).sum(axis=1)
        return float((slowest / self.row_seconds.mean(axis=1).sum(axis=1)).mean())


def predict_steps(costs: Costs, rows: Rows, dealt: NDArray[np.int64]) -> Prediction:
    """Predict steps.

    Args:
        costs: The model in its layout.
        rows: The rows.
        dealt: Numbers of rows, shape ``(num_steps, num_ranks, num_micro_batches)``.
    """
    num_steps, num_ranks, num_micro_batches = dealt.shape
    layout = costs.layout
    schedule = Schedule(layout.pipeline, layout.virtual, num_micro_batches)
    taken = rows.take(dealt.reshape(num_steps * num_ranks, num_micro_batches))
    forward, backward = passes_of(costs, taken)
    waited = [_meet(one.total, layout.expert // layout.context) for one in (forward, backward)]
    transfer = costs.transfer_seconds(int(rows.positions.max()))
    played = play(schedule, waited[0], waited[1], transfer)
    rank_seconds = played.seconds.reshape(num_steps, num_ranks)
    update = update_seconds(costs, waited[0], waited[1])
    slowest = rank_seconds.max(axis=1)
    real = taken.real_positions / taken.positions
    total = forward.total + backward.total
    parts = Parts(
        linear=_mean((forward.linear + backward.linear) * real[:, None, None, :]),
        padding=_mean((forward.linear + backward.linear) * (1 - real)[:, None, None, :]),
        attention=_mean(forward.attention + backward.attention),
        communication=_mean(forward.communication + backward.communication),
        overhead=_mean(forward.overhead + backward.overhead),
        experts_wait=_mean(waited[0] + waited[1] - total),
        pipeline=float(played.idle.mean()),
        ranks_wait=float((slowest[:, None] - rank_seconds).mean()),
        update=update,
    )
    return Prediction(
        parts=parts,
        steps_seconds=slowest + update,
        equal_seconds=_equal_seconds(costs, schedule, taken, transfer) + update,
        rank_seconds=rank_seconds,
        row_seconds=total.sum(axis=(1, 2)).reshape(num_steps, num_ranks, num_micro_batches),
        timeline=played.timeline,
    )


def passes_of(costs: Costs, taken: Rows) -> tuple[PassSeconds, PassSeconds]:
    """Seconds of forward and backward passes of rows, whose arrays have two dimensions.

    Returns:
        Shapes ``(num_pipelines, num_stages, num_chunks, num_micro_batches)``.
    """
    chunks = costs.layout.layers_of_chunks(costs.model)
    last = (len(chunks) - 1, len(chunks[0]) - 1)
    kinds = [
        [(layers, (stage, chunk) == last) for chunk, layers in enumerate(stage_chunks)]
        for stage, stage_chunks in enumerate(chunks)
    ]
    made = []
    for direction in (costs.forward, costs.backward):
        of_kind = {
            kind: direction(taken, kind[0], has_logits=kind[1])
            for kind in {kind for stage in kinds for kind in stage}
        }
        arrays = {
            field.name: np.array(
                [[getattr(of_kind[kind], field.name) for kind in stage] for stage in kinds]
            ).transpose(2, 0, 1, 3)
            for field in fields(PassSeconds)
        }
        made.append(PassSeconds(**arrays))
    return made[0], made[1]


def _meet(seconds: NDArray[np.float64], num_ranks: int) -> NDArray[np.float64]:
    """Passes of data-parallel ranks that share experts: they meet in every layer."""
    if num_ranks <= 1:
        return seconds
    groups = seconds.reshape(-1, num_ranks, *seconds.shape[1:])
    return np.repeat(groups.max(axis=1), num_ranks, axis=0)


def update_seconds(
    costs: Costs, forward: NDArray[np.float64], backward: NDArray[np.float64]
) -> float:
    """Seconds at the end of a step in which no pass runs.

    Gradients leave during the last backward pass, parameters come during the first forward pass.

    Args:
        costs: The model in its layout.
        forward: Seconds of forward passes, shaped as those of :func:`passes_of`.
        backward: Seconds of backward passes.
    """
    gradients = costs.gradient_seconds() - float(backward[..., -1].sum(axis=2).mean())
    parameters = costs.parameter_seconds() - float(forward[..., 0].sum(axis=2).mean())
    return max(0.0, gradients) + max(0.0, parameters) + costs.optimizer_seconds()


def _equal_seconds(costs: Costs, schedule: Schedule, taken: Rows, transfer: float) -> float:
    mean = Rows(
        positions=np.full((1, schedule.num_micro_batches), taken.positions.mean()),
        squares=np.full((1, schedule.num_micro_batches), taken.squares.mean()),
        real_positions=np.full((1, schedule.num_micro_batches), taken.real_positions.mean()),
        documents=np.full((1, schedule.num_micro_batches), taken.documents.mean()),
    )
    forward, backward = (one.total for one in passes_of(costs, mean))
    played: Played = play(schedule, forward, backward, transfer)
    return float(played.seconds[0])


def _mean(seconds: NDArray[np.float64]) -> float:
    """Seconds of a step on a stage: the sum over its passes, the mean over pipelines and stages."""
    return float(seconds.sum(axis=(2, 3)).mean())
