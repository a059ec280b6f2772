# SPDX-License-Identifier: Apache-2.0
"""Formats the plan and figures of a pack index as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from megatron_packing.counted import counted
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.planning.strategies import STRATEGY_TABLE


def describe_index(index: PackIndex) -> Table:
    """Return a table of plan and figures. Counts of skipped documents appear only if not 0."""
    figures, plan = index.figures, index.plan
    lines = [
        ("strategy", plan.strategy),
        (
            "packs",
            f"{counted(figures.num_packs, 'row')} of {counted(plan.sequence_length, 'position')}",
        ),
        ("lower bound", _describe_bound(index)),
        ("documents", f"{index.num_documents:,}"),
        ("documents per pack", f"{index.num_documents / figures.num_packs:.2f}"),
        ("most in one pack", f"{figures.max_documents_per_pack:,}"),
        ("positions", f"{figures.num_positions:,}"),
        ("utilisation", f"{figures.utilisation:.2%}"),
    ]
    left_out = [
        ("documents split", figures.num_documents_split),
        ("documents dropped", figures.num_documents_dropped),
        ("documents truncated", figures.num_documents_truncated),
        ("documents of under 2 tokens", figures.num_documents_empty),
        ("positions left out", figures.num_positions_lost),
        ("documents that train nothing", figures.num_documents_untrained),
        ("packs that train nothing", figures.num_packs_untrained),
    ]
    lines += [(name, f"{count:,}") for name, count in left_out if count]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for line in lines:
        table.add_row(*line)
    return table


def index_record(index: PackIndex) -> dict[str, Any]:
    """Return an index's plan, corpus and figures for JSON."""
    return {
        "index": str(index.path),
        "plan": asdict(index.plan),
        "corpus": asdict(index.corpus),
        "figures": asdict(index.figures),
    }


def _describe_bound(index: PackIndex) -> str:
    """Describe the lower bound, which applies to whole documents only."""
    figures, plan = index.figures, index.plan
    over = figures.num_packs - figures.lower_bound
    if STRATEGY_TABLE[plan.strategy].cuts_documents:
        return f"none for whole documents, which {plan.strategy} cuts"
    if over <= 0:
        return f"{figures.lower_bound:,}: optimal"
    wanted = [f"at least {plan.min_packs:,}"] if plan.min_packs > 0 else []
    if plan.packs_multiple_of > 1:
        wanted.append(f"a multiple of {plan.packs_multiple_of:,}")
    aim = f", to be {' and '.join(wanted)}" if wanted else ""
    return f"{figures.lower_bound:,}: {over:,} over{aim}"
