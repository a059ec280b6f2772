# SPDX-License-Identifier: Apache-2.0
"""Shows predicted epochs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from megatron_packing.report.visible import visible
from megatron_packing.simulate.costs import Costs
from megatron_packing.simulate.epoch import Epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """Predicted epochs of several ways to batch the same documents."""

    source: str
    sequence_length: int
    alignment: int
    global_batch_size: int
    num_documents: int
    num_positions: int
    """Of the planned documents."""
    costs: Costs
    epochs: tuple[Epoch, ...]
    """The first is what others are compared with."""

    def speed_up(self, epoch: Epoch) -> float:
        """The time of the first epoch over that of another."""
        return self.epochs[0].seconds / epoch.seconds

    def as_record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        costs = self.costs
        return {
            "source": self.source,
            "sequence_length": self.sequence_length,
            "alignment": self.alignment,
            "global_batch_size": self.global_batch_size,
            "num_documents": self.num_documents,
            "num_positions": self.num_positions,
            "model": asdict(costs.model),
            "experts": asdict(costs.experts),
            "layout": asdict(costs.layout),
            "gpus": costs.layout.gpus,
            "gpu": asdict(costs.device),
            "recompute": costs.recompute,
            "memory_bytes": costs.memory(self.sequence_length),
            "ways": [
                epoch.as_record(self.num_positions) | {"speed_up": self.speed_up(epoch)}
                for epoch in self.epochs
            ],
        }


def describe_setting(simulation: Simulation) -> str:
    """Model, GPUs and layout in one line."""
    costs = simulation.costs
    experts = costs.experts
    return (
        f"{costs.model.name}"
        + (
            f" with {experts.number} experts, {experts.per_token} a token"
            if experts.number > 1
            else ""
        )
        + f" on {costs.layout.gpus:,} {costs.device.name}: {costs.layout.describe()}, "
        f"{simulation.global_batch_size:,} rows a step"
        + (", recomputing layers" if costs.recompute else "")
    )


def describe_simulation(simulation: Simulation) -> Group:
    """Lay out a table with a column for each way, and notes that explain it."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", style="bold", no_wrap=True)
    for epoch in simulation.epochs:
        table.add_column(epoch.way.replace(", ", ",\n"), justify="right", vertical="bottom")
    for name, cells in _figures(simulation).items():
        table.add_row(name, *cells)
    costs = simulation.costs
    memory = costs.memory(simulation.sequence_length) / 1e9
    notes = [
        "Computed from lengths, not measured. Equal: the time of a step over that of a step whose "
        "micro-batches are all the mean row.",
        "Bubble: share of a step in which a pipeline stage waits for another. Idle: that, and "
        "waiting for the slowest rank.",
        f"Steps played: {len(simulation.epochs[-1].prediction.steps_seconds)}. Memory: about "
        f"{memory:,.0f} of {costs.device.memory / 1e9:,.0f} GB of a GPU.",
        *(
            [f"Documents take multiples of {simulation.alignment} positions."]
            if simulation.alignment > 1
            else []
        ),
        "Padded rows attend to the whole row, packed documents to themselves.",
    ]
    title = (
        f"{simulation.source}: {simulation.num_documents:,} documents, "
        f"{simulation.num_positions:,} positions, rows of {simulation.sequence_length:,}"
    )
    return Group(
        Text(visible(title), style="bold"),
        Text(visible(describe_setting(simulation)), style="bold"),
        Text(),
        table,
        Text(),
        Text("\n".join(notes), style="dim"),
    )


def _figures(simulation: Simulation) -> dict[str, list[str]]:
    epochs: Sequence[Epoch] = simulation.epochs
    found = [epoch.prediction for epoch in epochs]
    return {
        "rows": [f"{epoch.num_rows:,}" for epoch in epochs],
        "utilisation": [f"{epoch.utilisation:.1%}" for epoch in epochs],
        "steps / epoch": [f"{epoch.steps:,.1f}" for epoch in epochs],
        "step seconds": [f"{one.step_seconds:.3g}" for one in found],
        "  over equal": [f"{one.step_seconds / one.equal_seconds:.3f}" for one in found],
        "  slowest rank": [f"{one.slowest_rank:.3f}" for one in found],
        "  bubble": [f"{one.bubble_share:.1%}" for one in found],
        "  idle": [f"{one.idle_share:.1%}" for one in found],
        "tokens / s / GPU": [
            f"{epoch.tokens_per_second(simulation.num_positions):,.0f}" for epoch in epochs
        ],
        "epoch": [duration(epoch.seconds) for epoch in epochs],
        "speed-up": [f"{simulation.speed_up(epoch):.2f}" for epoch in epochs],
    }


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever is readable."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.3g} s"
