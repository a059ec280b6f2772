# SPDX-License-Identifier: Apache-2.0
"""What to do for a data set, each with the number that it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from megatron_packing.counted import counted
from megatron_packing.planning.strategies import BEST
from megatron_packing.report.compare import Comparison, PlanFigures
from megatron_packing.report.simulate import Simulation, duration

_HARDLY = 0.01  # a share that is not worth an action
_MANY_CUT = 0.05  # of documents that a row should hold whole


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to do."""

    topic: str
    text: str
    """What to do."""
    because: str
    """The number that it rests on."""


def advise(
    comparison: Comparison,
    lengths: NDArray[np.integer],
    *,
    others: tuple[Simulation, ...] = (),
    simulation: Simulation | None = None,
    most_documents: int | None = None,
) -> tuple[Advice, ...]:
    """Say what to do.

    Args:
        comparison: Strategies at the sequence length that was asked for.
        lengths: Positions of all documents, longer ones than a row among them, shape
            ``(num_documents,)``.
        others: Predictions at further sequence lengths.
        simulation: The prediction at this one. Without it nothing is said that needs one.
        most_documents: The limit of documents in a pack; None for none.
    """
    plan = next(one for one in comparison.plans if one.strategy == BEST)
    advice = [
        _strategy(comparison, plan),
        _sequence_length(comparison, lengths, simulation, others),
        _batch(comparison, plan),
        _learning_rate(comparison, plan),
        _alignment(lengths, simulation),
    ]
    if most_documents is not None:
        advice.insert(1, _limit(comparison, plan, most_documents))
    if simulation is not None:
        advice += [_balance(simulation), _context(simulation, lengths)]
    return tuple(advice)


def _strategy(comparison: Comparison, plan: PlanFigures) -> Advice:
    padding = comparison.plans[0]
    greedy = next(one for one in comparison.plans if one.strategy == "greedy")
    random = next(one for one in comparison.plans if one.strategy == "random")
    if padding.num_packs <= plan.num_packs * (1 + _HARDLY):
        return Advice(
            "strategy",
            "packing does not pay: keep one document a row",
            f"{padding.num_packs:,} padded rows, {plan.num_packs:,} packed ones",
        )
    found = (
        f"{counted(plan.num_packs, 'row')} instead of {padding.num_packs:,} padded and "
        f"{greedy.num_packs:,} of greedy"
    )
    cut = random.num_documents_split - plan.num_documents_split
    if cut > 0:
        found += f"; random would cut {counted(cut, 'document')} more"
    return Advice("strategy", f"--strategy {BEST}", found)


def _limit(comparison: Comparison, plan: PlanFigures, most: int) -> Advice:
    full = -(-comparison.num_positions // comparison.sequence_length)
    found = f"{counted(plan.num_packs, 'row')}; their positions fill {full:,}"
    if plan.num_packs <= full * (1 + _HARDLY):
        return Advice("documents a pack", f"a limit of {most:,} costs hardly any rows", found)
    return Advice("documents a pack", f"raise the limit of {most:,}, or leave it out", found)


def _sequence_length(
    comparison: Comparison,
    lengths: NDArray[np.integer],
    simulation: Simulation | None,
    others: tuple[Simulation, ...],
) -> Advice:
    row = comparison.sequence_length
    over = int(np.count_nonzero(lengths > row))
    total = int(lengths.sum(dtype=np.int64))
    share = int(lengths[lengths > row].sum(dtype=np.int64)) / total
    found = (
        f"{over:,} of {counted(len(lengths), 'document')}, with {share:.1%} of all positions, "
        f"{'is' if over == 1 else 'are'} longer than {row:,}"
    )
    speeds = {
        one.sequence_length: one.epochs[-1].tokens_per_second(one.num_positions)
        for one in (*((simulation,) if simulation else ()), *others)
    }
    if len(speeds) > 1:
        each = ", ".join(f"{row:,}: {speed:,.0f}" for row, speed in sorted(speeds.items()))
        found += f"; predicted tokens/s of a GPU: {each}"
    whole = int(np.quantile(lengths, 1 - _HARDLY))
    if share > _MANY_CUT:
        longer = 1 << max(0, whole - 1).bit_length()
        text = f"try longer rows: {longer:,} hold 99% of the documents whole"
        if longer <= row:
            text = (
                f"{row:,} hold 99% of the documents whole; if the long ones matter, try longer rows"
            )
        return Advice("sequence length", text, found)
    return Advice("sequence length", f"{row:,} is long enough", found)


def _batch(comparison: Comparison, plan: PlanFigures) -> Advice:
    packs = max(1, round(comparison.global_batch_size / plan.documents_per_pack))
    return Advice(
        "batch",
        f"to keep {counted(comparison.global_batch_size, 'document')} a step, a global batch of "
        f"about {counted(packs, 'pack')}",
        f"{plan.documents_per_pack:.2f} documents in a pack",
    )


def _learning_rate(comparison: Comparison, plan: PlanFigures) -> Advice:
    factor = plan.documents_per_pack
    return Advice(
        "learning rate",
        f"with documents a step kept, keep it; with "
        f"{counted(comparison.global_batch_size, 'pack')} a step start with the same and try up to "
        f"{sqrt(max(1.0, factor)):.2f} times as much",
        f"a batch of as many packs has {factor:.2f} times the documents, and its square root is "
        f"the most that is usual",
    )


def _alignment(lengths: NDArray[np.integer], simulation: Simulation | None) -> Advice:
    costs = {alignment: _aligned(lengths, alignment) for alignment in (4, 8, 16, 64)}
    found = ", ".join(f"{alignment}: {share:.1%}" for alignment, share in costs.items())
    needed = simulation.alignment if simulation else 1
    text = "--alignment 1, unless context parallelism needs more (2 * CP)"
    if needed > 1:
        text = f"--alignment {needed}, as the layout's context parallelism needs"
    return Advice("alignment", text, f"padding that alignment adds: {found}")


def _aligned(lengths: NDArray[np.integer], alignment: int) -> float:
    """Positions that an alignment adds, as a share of the documents' own."""
    rest = (-lengths.astype(np.int64)) % alignment
    return float(rest.sum() / lengths.sum(dtype=np.int64))


def _balance(simulation: Simulation) -> Advice:
    in_turn, balanced = (
        next(one for one in simulation.epochs if one.way == way)
        for way in (BEST, f"{BEST}, balanced")
    )
    before, after = in_turn.prediction, balanced.prediction
    gain = 1 - after.step_seconds / before.step_seconds
    found = (
        f"the slowest rank takes {before.slowest_rank:.3f} times the mean in turn, "
        f"{after.slowest_rank:.3f} balanced; steps get {gain:.1%} shorter"
    )
    if gain < _HARDLY:
        return Advice("balance", "--packing-balance hardly matters here; it does no harm", found)
    return Advice("balance", "--packing-balance", found)


def _context(simulation: Simulation, lengths: NDArray[np.integer]) -> Advice:
    costs = simulation.costs
    row = simulation.sequence_length
    memory = (
        f"about {costs.memory(row) / 1e9:,.0f} of {costs.device.memory / 1e9:,.0f} GB of a GPU "
        f"with {costs.layout.describe()}"
        + (", recomputing layers" if costs.recompute else "")
        + f"; an epoch takes {duration(simulation.epochs[-1].seconds)}"
    )
    if costs.layout.context == 1:
        return Advice("context parallelism", "none is needed for memory", memory)
    short = float((lengths < row // costs.layout.context).mean())
    return Advice(
        "context parallelism",
        f"{costs.layout.context} GPUs for a row; look at a shorter row first",
        f"{memory}; {short:.0%} of the documents would fit in one GPU's share of the row",
    )


def describe_advice(advice: tuple[Advice, ...]) -> Table:
    """Lay out advice as a table."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for one in advice:
        table.add_row(one.topic, Text.assemble(one.text, (f" ({one.because})", "dim")))
    return table
