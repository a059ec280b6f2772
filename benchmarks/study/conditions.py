# SPDX-License-Identifier: Apache-2.0
"""The ways of training that the study compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_packing.planning.strategies import Strategy
from megatron_packing.thd.layout import Attention
from megatron_packing.thd.loss_weights import Normaliser

PADDING = "padding"
"""The condition that all others are compared with."""

Steps = Literal["rows", "documents", "other documents", "tokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One way of training.

    All conditions train the same documents equally often. Those with ``equal="documents"`` do so in
    the same number of optimizer steps, so that a step has as many documents on average.
    """

    name: str
    strategy: Strategy
    attention: Attention = "document"
    """``pack`` lets documents attend to those before them in the row: no document mask."""
    normaliser: Normaliser = "token"
    end_token: bool = False
    """Whether the end token of each document is an input too, as the last one of its positions."""
    equal: Literal["documents", "rows"] = "documents"
    """What a step has as many of as a step of the other conditions."""
    steps: Steps = "rows"
    """What becomes a step:

    ``rows``             the next rows of the stream
    ``documents``        the next documents of the stream, equally many in each step
    ``other documents``  as many documents as the step of ``rows`` has, but any: what packing does
                         to the size of steps, without what it does to their composition
    ``tokens``           documents in random order, cut where the trained tokens of the step are as
                         many as ``spread`` says
    """
    spread: float = 0.0
    """With ``tokens``: standard deviation of the trained tokens of a step, as a share of their
    mean."""
    padded: bool = False
    """Compute each document in a row of its own that is padded, by torch's own causal attention."""
    most_seeds: int | None = None
    """It is run with so many seeds at most."""


def _both_masks(strategy: Strategy) -> list[Condition]:
    return [
        Condition(name=strategy, strategy=strategy),
        Condition(name=f"{strategy}, no mask", strategy=strategy, attention="pack"),
    ]


STRATEGIES: tuple[Strategy, ...] = ("random", "greedy", "optimal", "first_fit_shuffle")

MAIN = [
    Condition(name=PADDING, strategy="padding"),
    *(condition for strategy in STRATEGIES for condition in _both_masks(strategy)),
    Condition(
        name="optimal, no mask, end token", strategy="optimal", attention="pack", end_token=True
    ),
    Condition(name="padding, equal rows", strategy="padding", equal="rows"),
    Condition(name="optimal, computed padded", strategy="optimal", padded=True, most_seeds=2),
]
"""What a user chooses between, and the control: the documents of each packed step, padded."""

NORMALISERS = [
    Condition(name=f"{strategy}, {normaliser} loss", strategy=strategy, normaliser=normaliser)
    for normaliser in ("sequence", "turn")
    for strategy in ("padding", "optimal")
]

CAUSES = [
    *(
        Condition(name=f"{strategy}, equal counts", strategy=strategy, steps="documents")
        for strategy in ("greedy", "optimal", "first_fit_shuffle")
    ),
    Condition(name="optimal, other documents", strategy="optimal", steps="other documents"),
    *(
        Condition(
            name=f"padding, token spread {spread}",
            strategy="padding",
            steps="tokens",
            spread=spread,
        )
        for spread in (0.0, 0.25, 0.5)
    ),
]
"""What may make whole documents that see only themselves train worse in packs than in padded rows:
the composition of steps, their number of documents, or their number of trained tokens."""
