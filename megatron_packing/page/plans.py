# SPDX-License-Identifier: Apache-2.0
"""The sections of a page about documents and packs."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from megatron_packing.page.charts import draw_histogram, draw_lines
from megatron_packing.page.packs import draw_packs
from megatron_packing.page.parts import figure, table
from megatron_packing.planning.strategies import BEST
from megatron_packing.report.data_report import BALANCED, DataReport, LengthReport
from megatron_packing.report.simulate import describe_setting, duration
from megatron_packing.simulate.epoch import WAYS

_PACKS_DRAWN = 6


def show_lengths(report: DataReport) -> Iterator[str]:
    """How long documents are."""
    lengths = report.document_lengths
    longest = int(lengths.max())
    middle = int(np.partition(lengths, len(lengths) // 2)[len(lengths) // 2])
    rows = [one.sequence_length for one in report.lengths]
    over = int((lengths > rows[0]).sum())
    yield "<h2>How long documents are</h2>"
    yield (
        f"<p>{len(lengths):,} documents with {int(lengths.sum()):,} positions (tokens less one). "
        f"Half have at most {middle:,}, the mean is {lengths.mean():,.0f}, the longest has "
        f"{longest:,}. {over:,} are longer than a row of {rows[0]:,}.</p>"
    )
    yield figure(draw_histogram(lengths, rows))


def show_packs(main: LengthReport) -> Iterator[str]:
    """Some packs of each strategy."""
    yield "<h2>What a row holds</h2>"
    yield (
        f"<p>{_PACKS_DRAWN} rows of each strategy, drawn at random. Each block is a document; rest "
        f"the pointer on it to see which. "
        f'<svg class="key lanes" viewBox="0 0 22 12"><rect class="p" width="22" height="12"/></svg>'
        f" is padding, "
        f'<svg class="key lanes" viewBox="0 0 22 12"><rect class="b" width="22" height="12"/>'
        f'<rect class="k" width="22" height="12"/></svg>'
        f" a piece of a document that was cut.</p>"
    )
    for name, plan in main.plans.items():
        figures = next(one for one in main.comparison.plans if one.strategy == name)
        yield (
            f"<h3>{name}: {figures.utilisation:.1%} full, "
            f"{figures.documents_per_pack:.1f} documents in a row</h3>"
        )
        drawing = draw_packs(plan, main.lengths, most=_PACKS_DRAWN, title=f"rows of {name}")
        yield figure(drawing, kind="packed")


def show_strategies(report: DataReport) -> Iterator[str]:
    """Figures of every strategy at every sequence length."""
    yield "<h2>What strategies cost</h2>"
    by_row = sorted(report.lengths, key=lambda one: one.sequence_length)
    if len(by_row) > 1:
        rows = [one.sequence_length for one in by_row]
        ways: list[str] = [strategy for strategy, dealing in WAYS.values() if dealing == "random"]
        shares = {name: [one.epoch(name).utilisation * 100 for one in by_row] for name in ways}
        yield figure(draw_lines(shares, rows, "utilization, %"), "Utilization by sequence length.")
        speeds = {
            name: [
                one.epoch(name).tokens_per_second(one.simulation.num_positions) for one in by_row
            ]
            for name in (*ways, BALANCED)
        }
        yield figure(
            draw_lines(speeds, rows, "tokens / s of a GPU", log=True),
            "Predicted real tokens a second of a GPU, each row length in the layout below.",
        )
    header = (
        "strategy",
        "rows",
        "above bound",
        "utilization",
        "padding",
        "steps",
        "docs / row",
        "docs split",
        "epoch",
        "speed-up",
    )
    for one in report.lengths:
        comparison = one.comparison
        lost = [
            f"{count:,} {what}"
            for count, what in (
                (comparison.num_documents_dropped, "documents dropped"),
                (comparison.num_documents_truncated, "documents truncated"),
                (comparison.num_positions_lost, "positions lost"),
            )
            if count
        ]
        yield f"<h3>Rows of {one.sequence_length:,}</h3>"
        yield (
            f'<p class="note">{escape(describe_setting(one.simulation))}. No plan of whole '
            f"documents has fewer than {comparison.lower_bound:,} rows. "
            f"{', '.join(lost) + '.' if lost else 'Nothing is dropped or truncated.'}</p>"
        )
        body = []
        for plan in comparison.plans:
            epoch = one.epoch(plan.strategy)
            above = plan.num_packs - comparison.lower_bound
            bound = "cuts" if plan.cuts_documents else f"+{above:,}" if above else "optimal"
            body.append(
                (
                    plan.strategy,
                    f"{plan.num_packs:,}",
                    bound,
                    f"{plan.utilisation:.2%}",
                    f"{plan.num_padding_positions:,}",
                    f"{comparison.steps(plan):,}",
                    f"{plan.documents_per_pack:.2f}",
                    f"{plan.num_documents_split:,}",
                    duration(epoch.seconds),
                    f"{one.speed_up(plan.strategy):.2f}",
                )
            )
        yield table(header, body, best=BEST)


def show_randomness(main: LengthReport) -> Iterator[str]:
    """Which documents meet, and how steps differ."""
    yield "<h2>How random batches are</h2>"
    yield (
        "<p>Sorting by length fills rows but may put like documents together. "
        "<b>Length correlation</b>: of neighbors in a row; 0 is random, 1 is rows of one length. "
        "<b>Neighbor distance</b>: in the input, over that of random pairs; 1 is no trace of the "
        "input's order. <b>Order</b>: correlation of one row's documents with the next row's, as "
        "trained; 0 is random. <b>Spread</b>: standard deviation between steps over the mean.</p>"
    )
    header = (
        "strategy",
        "length correlation",
        "neighbor distance",
        "order",
        "spread of documents",
        "spread of positions",
    )
    body = [
        (
            name,
            _optional(found.length_correlation),
            _optional(found.neighbor_distance),
            _optional(found.order_correlation),
            f"{found.documents_spread:.1%}",
            f"{found.positions_spread:.1%}",
        )
        for name, found in main.randomness.items()
    ]
    yield table(header, body)


def _optional(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0:.2f}"
