# SPDX-License-Identifier: Apache-2.0
"""Writes a report as one page of HTML that needs nothing else: no network and no script."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from megatron_packing.page import lanes
from megatron_packing.page.plans import (
    show_lengths,
    show_packs,
    show_randomness,
    show_strategies,
)
from megatron_packing.page.steps import show_ranks, show_time
from megatron_packing.planning.strategies import BASELINE
from megatron_packing.report.data_report import BALANCED, DataReport
from megatron_packing.report.simulate import describe_setting, duration
from megatron_packing.report.visible import visible

_TITLE = "Packing report"


def make_page(report: DataReport) -> str:
    """The page, as HTML."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    title = escape(visible(f"{_TITLE}: {report.source}"))
    body = "\n".join(
        (
            *_answer(report),
            *show_lengths(report),
            *show_packs(report.main),
            *show_strategies(report),
            *show_ranks(report.main),
            *show_randomness(report.main),
            *show_time(report.main),
            *_advice(report),
            *_method(report),
        )
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>\n{style}{lanes.STYLE}\n</style></head><body>\n"
        f'<svg width="0" height="0" class="lanes" aria-hidden="true" style="position:absolute">'
        f"{lanes.PATTERNS}</svg>\n{body}\n</body></html>\n"
    )


def is_page(text: str) -> bool:
    """Whether a text begins as a page of ``make_page`` does."""
    return f"<title>{_TITLE}" in text


def _answer(report: DataReport) -> Iterator[str]:
    main = report.main
    padding, best = (main.epoch(way) for way in (BASELINE, BALANCED))
    factor = main.speed_up(BALANCED)
    documents = main.comparison.num_documents
    row = f"{main.sequence_length:,}"
    if factor < 1.05:
        answer = f"Packing does not pay for this data set in rows of {row}: keep padding."
    else:
        answer = (
            f"Pack it: in rows of {row}, an epoch is predicted to run {_times(factor)} as fast as "
            f"with one document a row."
        )
    yield f"<h1>Packing report: {escape(visible(report.source))}</h1>"
    yield f'<p class="answer">{answer}</p>'
    yield '<div class="numbers">'
    for number, what in (
        (
            f"{factor:.{2 if factor < 10 else 1}f} &times;",
            f"as fast: {duration(best.seconds)} an epoch instead of {duration(padding.seconds)}: "
            f"predicted, not measured",
        ),
        (
            f"{padding.utilisation:.1%} &rarr; {best.utilisation:.1%}",
            "utilization: the share of computed positions that are documents",
        ),
        (
            f"{padding.num_rows:,} &rarr; {best.num_rows:,}",
            f"rows for {documents:,} documents, {best.documents_per_row:.1f} in a row",
        ),
    ):
        yield f"<div><b>{number}</b><span>{what}</span></div>"
    yield "</div>"
    yield (
        f'<p class="setting">{escape(describe_setting(main.simulation))}. '
        f'<a href="#advice">What to do</a></p>'
    )


def _advice(report: DataReport) -> Iterator[str]:
    yield '<h2 id="advice">What to do</h2>'
    yield '<dl class="advice">'
    for one in report.advice:
        yield (
            f"<dt>{escape(one.topic)}</dt><dd>{escape(one.text)}"
            f'<span class="because">{escape(one.because)}</span></dd>'
        )
    yield "</dl>"


def _method(report: DataReport) -> Iterator[str]:
    device = report.main.simulation.costs.device
    yield "<h2>How this was computed</h2>"
    yield (
        f"<p>From the lengths of documents alone: nothing was trained. Times come from "
        f"floating-point operations at {device.linear_efficiency:.0%} of "
        f"{device.flops / 1e12:,.0f} TFLOP/s ({escape(device.name)}), from bytes over links, and "
        f"from pipeline schedules that are played micro-batch by micro-batch. Packed documents "
        f"attend to themselves, padded rows to the whole row. The numbers stand as JSON beside "
        f"this page. The error of such predictions is in docs/analysis.md of megatron-packing.</p>"
    )


def _times(factor: float) -> str:
    return f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times"
