# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing compare``."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from megatron_packing.commands.model_shape import add_model_arguments, model_of
from megatron_packing.commands.planning import (
    add_planning_arguments,
    open_documents,
    refuse_other_tokenizers,
)
from megatron_packing.commands.waiting import (
    add_waiting_arguments,
    check_waiting_arguments,
    show_waiting,
)
from megatron_packing.errors import InputError
from megatron_packing.index.packable import FittedLengths, fit_lengths
from megatron_packing.planning.plan import PackPlan, plan_packs
from megatron_packing.planning.rows import rows_of_plan
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.planning.strategies import BEST, STRATEGIES
from megatron_packing.report.advice import advise, describe_advice
from megatron_packing.report.compare import Comparison, PlanFigures, describe_comparison, measure
from megatron_packing.report.console import console, progress_bar

HELP = "plan with every strategy and print the figures side by side; writes no index"
EXAMPLE = "megatron-packing compare data/chat --sequence-length 4096 --overlong split"
JSON_KEYS = {
    "source": "the corpora or the file of lengths",
    "sequence_length": "positions in a row",
    "global_batch_size": "in rows",
    "model": "the sizes that the speed-up is computed from",
    "num_documents": "documents that were planned",
    "num_positions": "their positions",
    "num_documents_dropped": "documents left out as too long",
    "num_documents_truncated": "documents cut to a row",
    "num_documents_empty": "documents of fewer than 2 tokens",
    "num_positions_lost": "positions of dropped documents and cut-off ends",
    "plans": "for each strategy its packs, lower bound, utilisation, padding, steps, speed-up, ...",
    "lower_bound": "no plan of whole documents has fewer packs",
    "waiting": "for each order of packs how long ranks wait; empty without --data-parallel",
    "advice": "topic, text and the number that it rests on",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_planning_arguments(parser, without=("strategy", "min_packs", "packs_multiple_of"))
    add_waiting_arguments(parser)
    add_model_arguments(parser)


def run(args: Namespace) -> dict[str, Any]:
    """Compare."""
    if args.sequence_length < 1:
        raise InputError(f"--sequence-length is {args.sequence_length}; it must be at least 1")
    check_waiting_arguments(args)
    model = model_of(args)
    documents = open_documents(args)
    refuse_other_tokenizers(documents, args)
    source = documents.prefix
    fitted = fit_lengths(documents.num_tokens, source, args.sequence_length, args.overlong)
    figures, best = _plan_all(fitted, args)
    comparison = Comparison.of(
        fitted,
        figures,
        source=source,
        sequence_length=args.sequence_length,
        global_batch_size=args.global_batch_size,
        model=model,
    )
    advice = advise(comparison, fitted.packable, most_documents=args.max_documents_per_pack)
    console.print(describe_comparison(comparison, console.width), soft_wrap=False)
    console.print()
    waiting = {}
    if args.data_parallel is not None:
        waiting = show_waiting(rows_of_plan(best, fitted.lengths), model, args)
        console.print()
    console.print(describe_advice(advice), soft_wrap=False)
    return comparison.as_record() | {
        "waiting": waiting,
        "advice": [asdict(one) for one in advice],
    }


def _plan_all(documents: FittedLengths, args: Namespace) -> tuple[list[PlanFigures], PackPlan]:
    """Measure the plans of all strategies; the plan of the best one is kept."""
    figures: list[PlanFigures] = []
    with progress_bar("planning", len(STRATEGIES)) as progress:
        for strategy in STRATEGIES:

            def show(share: float, name: str = strategy) -> None:
                progress.update(len(figures) + share, name)

            started = time.perf_counter()
            settings = PlanSettings.from_arguments(
                args, strategy=strategy, overlong=documents.overlong
            )
            plan = plan_packs(documents.lengths, settings, progress=show)
            seconds = time.perf_counter() - started
            figures.append(measure(plan, documents.lengths, strategy, seconds))
            if strategy == BEST:
                best = plan
    return figures, best
