# SPDX-License-Identifier: Apache-2.0
"""The strategies that the native core has, as its table lists them."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_packing import _core
from megatron_packing._strategy import Strategy as Strategy


@dataclass(frozen=True, slots=True)
class StrategyRow:
    """A row of the table of strategies in ``csrc/strategies/table.cpp``."""

    name: Strategy
    cuts_documents: bool
    """Whether it cuts documents of any length where rows end. If so, it neither drops nor truncates
    overlong documents, and no lower bound of whole documents holds."""
    by_length: bool
    """Whether it sees only how many documents there are of each length. Others look at documents
    one after another, in an order that the seed decides."""
    summary: str
    """What it does, for ``--help``."""


STRATEGY_TABLE = {row[0]: StrategyRow(*row) for row in _core.strategies()}
"""All strategies by name, in the order in which they are listed."""
STRATEGIES = tuple(STRATEGY_TABLE)
BASELINE = STRATEGIES[0]
"""One document a row: what packing is measured against."""
BEST: Strategy = "optimal"
"""The default: as few rows as can be."""


def describe_strategies() -> str:
    """What each strategy does, for the help of a flag."""
    return "; ".join(f"{row.name}: {row.summary}" for row in STRATEGY_TABLE.values())
