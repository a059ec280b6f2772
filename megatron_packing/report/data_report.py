# SPDX-License-Identifier: Apache-2.0
"""The numbers of a report: what each strategy makes of a data set, by sequence length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.planning.plan import PackPlan
from megatron_packing.planning.strategies import BASELINE, BEST
from megatron_packing.report.advice import Advice
from megatron_packing.report.compare import Comparison
from megatron_packing.report.randomness import Randomness
from megatron_packing.report.simulate import Simulation
from megatron_packing.simulate.epoch import Epoch

BALANCED = f"{BEST}, balanced"


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthReport:
    """All strategies at one sequence length."""

    comparison: Comparison
    simulation: Simulation
    """Ways are the strategies, and ``BALANCED``."""
    plans: Mapping[str, PackPlan]
    """By strategy, for drawings."""
    lengths: NDArray[np.integer]
    """Positions of the planned documents."""
    randomness: Mapping[str, Randomness]
    """By strategy."""

    @property
    def sequence_length(self) -> int:
        """Positions in a row."""
        return self.comparison.sequence_length

    def epoch(self, way: str) -> Epoch:
        """The predicted epoch of one way."""
        return next(epoch for epoch in self.simulation.epochs if epoch.way == way)

    def speed_up(self, way: str) -> float:
        """The predicted time of an epoch of padding over that of a way."""
        return self.epoch(BASELINE).seconds / self.epoch(way).seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """Everything that a report shows."""

    source: str
    document_lengths: NDArray[np.integer]
    """Positions of all documents that have any, shape ``(num_documents,)``."""
    lengths: tuple[LengthReport, ...]
    """One for each sequence length; the first is what the page is about."""
    advice: tuple[Advice, ...]

    @property
    def main(self) -> LengthReport:
        """The sequence length that the page is about."""
        return self.lengths[0]

    def as_record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        documents = self.document_lengths
        quantiles = (0.5, 0.9, 0.99)
        return {
            "source": self.source,
            "num_documents": len(documents),
            "num_positions": int(documents.sum(dtype=np.int64)),
            "mean_positions": float(documents.mean()),
            "quantiles": {
                f"{share:g}": float(np.quantile(documents, share)) for share in quantiles
            },
            "longest": int(documents.max()),
            "sequence_lengths": [
                {
                    "sequence_length": one.sequence_length,
                    "comparison": one.comparison.as_record(),
                    "simulation": one.simulation.as_record(),
                    "randomness": {name: asdict(found) for name, found in one.randomness.items()},
                }
                for one in self.lengths
            ],
            "advice": [asdict(one) for one in self.advice],
        }
