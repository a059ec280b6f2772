# SPDX-License-Identifier: Apache-2.0
"""Predicts an epoch of one way to batch documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from megatron_packing.planning.rows import Rows
from megatron_packing.planning.strategies import Strategy
from megatron_packing.simulate.costs import Costs
from megatron_packing.simulate.deal import Dealing, deal_epoch
from megatron_packing.simulate.step import Prediction, predict_steps

WAYS: dict[str, tuple[Strategy, Dealing]] = {
    "padding": ("padding", "random"),
    "random": ("random", "random"),
    "greedy": ("greedy", "random"),
    "optimal": ("optimal", "random"),
    "optimal, even": ("optimal", "even"),
    "optimal, balanced": ("optimal", "balanced"),
}
"""What is simulated side by side: the strategy, and how steps get their rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """A predicted epoch."""

    way: str
    num_rows: int
    global_batch_size: int
    utilisation: float
    """Positions of documents over all that rows have."""
    documents_per_row: float
    num_gpus: int
    prediction: Prediction

    @property
    def steps(self) -> float:
        """Steps of an epoch. The last one may be a part of a step."""
        return self.num_rows / self.global_batch_size

    @property
    def seconds(self) -> float:
        """Seconds of an epoch."""
        return self.steps * self.prediction.step_seconds

    def tokens_per_second(self, num_positions: int) -> float:
        """Positions of documents that a GPU trains in a second.

        Args:
            num_positions: Positions of all documents.
        """
        return num_positions / self.seconds / self.num_gpus

    def as_record(self, num_positions: int) -> dict[str, Any]:
        """All figures, for JSON."""
        found = self.prediction
        return {
            "way": self.way,
            "num_rows": self.num_rows,
            "steps": self.steps,
            "utilisation": self.utilisation,
            "documents_per_row": self.documents_per_row,
            "step_seconds": found.step_seconds,
            "step_seconds_spread": float(found.steps_seconds.std()),
            "step_over_equal_micro_batches": found.step_seconds / found.equal_seconds,
            "bubble_share": found.bubble_share,
            "idle_share": found.idle_share,
            "slowest_rank": found.slowest_rank,
            "slowest_micro_batch": found.slowest_micro_batch,
            "parts_of_a_step": asdict(found.parts),
            "epoch_seconds": self.seconds,
            "tokens_per_second_and_gpu": self.tokens_per_second(num_positions),
        }


def predict_epoch(
    way: str,
    rows: Rows,
    costs: Costs,
    *,
    global_batch_size: int,
    most_steps: int,
    seed: int,
    dealing: Dealing,
) -> Epoch:
    """Predict an epoch from its first steps.

    Args:
        way: A name for it.
        rows: All rows of the epoch.
        costs: The model in its layout.
        global_batch_size: Rows of a step.
        most_steps: Steps to play at most; whole ones, and one at least.
        seed: Decides the order of packs, as in training.
        dealing: How steps get their rows.
    """
    costs.layout.rows_of_a_rank(global_batch_size)
    dealt = deal_epoch(
        dealing,
        rows,
        num_ranks=costs.layout.data,
        pipelined=costs.layout.pipeline > 1,
        global_batch_size=global_batch_size,
        model=costs.model.work_model(),
        seed=seed,
        most_steps=most_steps,
    )
    return Epoch(
        way=way,
        num_rows=len(rows),
        global_batch_size=global_batch_size,
        utilisation=float(rows.real_positions.sum() / rows.positions.sum()),
        documents_per_row=float(rows.documents.sum() / len(rows)),
        num_gpus=costs.layout.gpus,
        prediction=predict_steps(costs, rows, dealt),
    )
