# SPDX-License-Identifier: Apache-2.0
"""What a probe measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Neighbors = Literal["none", "random", "similar"]
Positions = Literal["continue", "restart"]

TARGETS = (
    "earlier documents",
    "first token of the row",
    "end tokens",
    "own first token",
    "own tokens",
)
"""What attention is given to. Each position of a row is of one kind: the first token of the row and
end tokens are not counted among those of earlier documents."""
EARLIER, ROW_START, END_TOKENS, OWN_START, OWN = range(len(TARGETS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to put a document into a row, without a mask."""

    neighbors: Neighbors
    """The documents before it: none, any, or those with the most similar tokens."""
    positions: Positions = "continue"
    """Whether position ids run through the row or restart in each document."""
    end_token: int | None = None
    """The token after each of them, as an input; None if there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantResult:
    """Means over the measured documents in one variant."""

    variant: Variant
    losses: NDArray[np.float64]
    """Shape ``(documents,)``: mean loss of each document's trained tokens."""
    shares: NDArray[np.float64]
    """Shape ``(layers, heads, targets)``: how much of its attention a document gives to each of
    ``TARGETS``; sums to 1."""
    uniform: NDArray[np.float64]
    """Shape ``(targets,)``: the same if all tokens before a position got equal attention."""

    @property
    def earlier_by_layer(self) -> NDArray[np.float64]:
        """Shape ``(layers,)``: attention on earlier documents and their end tokens."""
        means: NDArray[np.float64] = self.shares.mean(axis=1)
        return means[:, EARLIER] + means[:, END_TOKENS]

    def loss_change(self, alone: VariantResult) -> tuple[float, float]:
        """Mean of loss minus loss alone, over the same documents, and its standard error."""
        changes = self.losses - alone.losses
        return float(changes.mean()), float(changes.std(ddof=1) / np.sqrt(len(changes)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """What a probe measured."""

    checkpoint: str
    num_documents: int
    documents_per_row: int
    alone: VariantResult
    variants: list[VariantResult]
