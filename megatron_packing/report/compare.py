# SPDX-License-Identifier: Apache-2.0
"""Compare strategies on one corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from megatron_packing.counted import counted
from megatron_packing.flops.model import ModelShape
from megatron_packing.index.packable import FittedLengths
from megatron_packing.planning.plan import PackPlan
from megatron_packing.planning.strategies import BASELINE, STRATEGY_TABLE, Strategy
from megatron_packing.report.visible import visible

_BLOCK_PACKS = 1 << 14  # packs measured at a time, which bounds memory
_WIDE = 100
_BEST = "bold green"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFigures:
    """Figures of the plan of one strategy."""

    strategy: Strategy
    num_packs: int
    lower_bound: int
    """The plan's own bound; :attr:`Comparison.lower_bound` is the best of all plans."""
    utilisation: float
    num_padding_positions: int
    """Positions of rows that hold no document: tails and alignment."""
    num_documents_split: int
    documents_per_pack: float
    attention_work: int
    """Sum of squared segment lengths: attention with document masks."""
    attention_work_without_masks: int
    """Sum of squared filled positions of packs. Alignment counts as filled, the tail does not."""
    seconds: float
    """Planning time."""

    @property
    def cuts_documents(self) -> bool:
        """Whether the strategy cuts documents where rows end. Then no lower bound applies."""
        return STRATEGY_TABLE[self.strategy].cuts_documents


def measure(
    plan: PackPlan, lengths: NDArray[np.integer], strategy: Strategy, seconds: float
) -> PlanFigures:
    """Measure a plan.

    Args:
        plan: A plan of at least one pack.
        lengths: Shape ``(num_documents,)``: positions of the planned documents.
        strategy: The strategy of the plan.
        seconds: The time that planning took.
    """
    with_masks = without_masks = 0
    # Sums over a block must fit 64 bits. The sum of a pack is at most the square of its row.
    block = max(1, min(_BLOCK_PACKS, (2**63 - 1) // plan.sequence_length**2))
    for first in range(0, plan.num_packs, block):
        offsets = plan.pack_offsets[first : first + block + 1]
        block_segments = slice(int(offsets[0]), int(offsets[-1]))
        if plan.segment_lengths is None:
            segments = lengths[plan.document_ids[block_segments]].astype(np.int64)
        else:
            segments = plan.segment_lengths[block_segments]
        aligned = -(-segments // plan.alignment) * plan.alignment
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(aligned)])
        filled = np.diff(ends[offsets - offsets[0]])
        with_masks += int(np.dot(segments, segments))
        without_masks += int(np.dot(filled, filled))
    num_row_positions = plan.num_packs * plan.sequence_length
    return PlanFigures(
        strategy=strategy,
        num_packs=plan.num_packs,
        lower_bound=plan.lower_bound,
        utilisation=plan.utilisation,
        num_padding_positions=num_row_positions - plan.num_positions,
        num_documents_split=plan.num_documents_split,
        documents_per_pack=plan.num_documents / plan.num_packs,
        attention_work=with_masks,
        attention_work_without_masks=without_masks,
        seconds=seconds,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Figures of several plans for the same documents."""

    source: str
    """The corpus or the file of lengths."""
    sequence_length: int
    global_batch_size: int
    """In rows."""
    model: ModelShape
    num_documents: int
    """Planned documents, without those left out."""
    num_positions: int
    num_documents_dropped: int
    num_documents_truncated: int
    num_documents_empty: int
    num_positions_lost: int
    """Positions of dropped documents and of truncated ends."""
    plans: tuple[PlanFigures, ...]
    """One of them has the strategy ``BASELINE``."""

    @classmethod
    def of(
        cls,
        documents: FittedLengths,
        plans: Sequence[PlanFigures],
        *,
        source: Path | str,
        sequence_length: int,
        global_batch_size: int,
        model: ModelShape,
    ) -> Comparison:
        """Compare plans of the same documents."""
        return cls(
            source=str(source),
            sequence_length=sequence_length,
            global_batch_size=global_batch_size,
            model=model,
            num_documents=len(documents.lengths),
            num_positions=documents.num_positions,
            num_documents_dropped=documents.num_documents_dropped,
            num_documents_truncated=documents.num_documents_truncated,
            num_documents_empty=documents.num_documents_empty,
            num_positions_lost=documents.num_positions_lost,
            plans=tuple(plans),
        )

    @property
    def lower_bound(self) -> int:
        """Best proven bound: no plan of whole documents has fewer packs."""
        return max(plan.lower_bound for plan in self.plans if not plan.cuts_documents)

    def is_optimal(self, plan: PlanFigures) -> bool:
        """Whether no plan of whole documents has fewer packs."""
        return not plan.cuts_documents and plan.num_packs == self.lower_bound

    def steps(self, plan: PlanFigures) -> int:
        """Steps of an epoch, counting an incomplete last step."""
        return -(-plan.num_packs // self.global_batch_size)

    def speed_up(self, plan: PlanFigures) -> float:
        """Operations of an epoch of ``BASELINE`` divided by those of ``plan``.

        Linear layers compute whole rows. Attention has document masks in both.
        """
        (baseline,) = (other for other in self.plans if other.strategy == BASELINE)
        return self._epoch_flops(baseline) / self._epoch_flops(plan)

    def _epoch_flops(self, plan: PlanFigures) -> int:
        return self.model.epoch_flops(plan.num_packs, self.sequence_length, plan.attention_work)

    def as_record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        record = asdict(self) | {"lower_bound": self.lower_bound}
        record["plans"] = [
            asdict(plan)
            | {
                "is_optimal": self.is_optimal(plan),
                "steps": self.steps(plan),
                "epoch_flops": self._epoch_flops(plan),
                "speed_up": self.speed_up(plan),
            }
            for plan in self.plans
        ]
        return record


def describe_comparison(comparison: Comparison, width: int) -> Group:
    """Lay out a table with a column for each strategy, and notes that explain it.

    Args:
        comparison: The figures.
        width: Columns of the terminal. If the table does not fit, several tables have a row for
            each strategy.
    """
    lines = _figures(comparison)
    tables: list[Table] = [_wide_table(comparison, lines, width)]
    if Console(width=10**4).measure(tables[0]).minimum > width:
        tables = _narrow_tables(comparison, lines, width)
    return Group(
        Text(visible(_title(comparison)), style="bold"),
        *(part for table in tables for part in (Text(), table)),
        Text(),
        _notes(comparison),
    )


def _figures(comparison: Comparison) -> dict[str, list[str]]:
    """Cells of each line, one for each plan."""
    plans = comparison.plans
    return {
        "packs": [f"{plan.num_packs:,}" for plan in plans],
        "above bound": [_above_bound(comparison, plan) for plan in plans],
        "utilisation": [f"{plan.utilisation:.2%}" for plan in plans],
        "padding": [_short(plan.num_padding_positions) for plan in plans],
        "docs split": [_short(plan.num_documents_split) for plan in plans],
        "docs per pack": [f"{plan.documents_per_pack:.2f}" for plan in plans],
        "steps / epoch": [f"{comparison.steps(plan):,}" for plan in plans],
        "attention": [_short(plan.attention_work) for plan in plans],
        "  unmasked": [_short(plan.attention_work_without_masks) for plan in plans],
        "speed-up": [f"{comparison.speed_up(plan):.2f}" for plan in plans],
        "plan seconds": [_seconds(plan.seconds) for plan in plans],
    }


def _wide_table(comparison: Comparison, lines: dict[str, list[str]], width: int) -> Table:
    """One table with a column for each strategy."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1 if width >= _WIDE else 0, 0, 0))
    table.add_column("", style="bold", no_wrap=True)
    for plan in comparison.plans:
        style = _BEST if comparison.is_optimal(plan) else None
        header = plan.strategy.replace("fit_", "fit_\n")
        table.add_column(header, justify="right", no_wrap=True, vertical="bottom", style=style)
    for name, cells in lines.items():
        table.add_row(name, *cells)
    return table


def _narrow_tables(comparison: Comparison, lines: dict[str, list[str]], width: int) -> list[Table]:
    """Tables with a row for each strategy and as many figures as fit."""
    room = width - max(len(plan.strategy) for plan in comparison.plans)
    tables: list[list[str]] = []
    used = width
    for name, cells in lines.items():
        needed = 1 + max(len(name), *map(len, cells))
        if used + needed > room:
            tables.append([])
            used = 0
        tables[-1].append(name)
        used += needed
    made = []
    for names in tables:
        table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 0))
        table.add_column("", style="bold", no_wrap=True)
        for name in names:
            table.add_column(name.strip(), justify="right", no_wrap=True)
        for number, plan in enumerate(comparison.plans):
            style = _BEST if comparison.is_optimal(plan) else None
            cells = [lines[name][number] for name in names]
            table.add_row(plan.strategy, *cells, style=style)
        made.append(table)
    return made


def _title(comparison: Comparison) -> str:
    return (
        f"{comparison.source}: {comparison.num_documents:,} documents, "
        f"{comparison.num_positions:,} positions, rows of {comparison.sequence_length:,}; "
        f"lower bound {comparison.lower_bound:,} packs"
    )


def _notes(comparison: Comparison) -> Text:
    left_out = {
        "documents dropped": comparison.num_documents_dropped,
        "documents truncated": comparison.num_documents_truncated,
        "documents of under 2 tokens": comparison.num_documents_empty,
        "positions left out": comparison.num_positions_lost,
    }
    counts = [f"{count:,} {what}" for what, count in left_out.items() if count]
    cutting = [plan.strategy for plan in comparison.plans if plan.cuts_documents]
    step = counted(comparison.global_batch_size, "row")
    verb = "cuts" if len(cutting) == 1 else "cut"
    notes = [
        f"Left out: {', '.join(counts)}." if counts else "",
        "Lower bound: no plan of whole documents has fewer packs."
        + (f" {' and '.join(cutting)} {verb} documents." if cutting else ""),
        f"Padding: positions without a document. Steps: of {step}.",
        "Attention: sum of squared segment lengths, as with document masks; unmasked: of squared "
        "row lengths, tails not counted.",
        f"Speed-up: over {BASELINE}, computed from floating-point operations alone, not measured: "
        f"{comparison.model.name}, linear layers over whole rows, attention with masks in both.",
    ]
    return Text("\n".join(note for note in notes if note), style="dim")


def _above_bound(comparison: Comparison, plan: PlanFigures) -> str:
    if plan.cuts_documents:
        return "-"
    if comparison.is_optimal(plan):
        return "optimal"
    return f"+{_short(plan.num_packs - comparison.lower_bound)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.{4 if seconds < 1 else 1}f}"


def _short(count: int) -> str:
    """Format a count in at most seven characters, such as 99,999 or 1.23M."""
    if count < 100_000:
        return f"{count:,}"
    shown = float(count)
    unit = ""
    for larger in "kMGTPE":
        if shown < 999.5:
            break
        shown, unit = shown / 1000, larger
    digits = 2 if shown < 9.995 else 1 if shown < 99.95 else 0
    return f"{shown:.{digits}f}{unit}"
