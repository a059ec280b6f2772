# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing compare``."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.commands.model_shape import add_model_arguments, model_of
from megatron_packing.commands.planning import (
    add_planning_arguments,
    open_documents,
    refuse_other_tokenizers,
)
from megatron_packing.errors import InputError
from megatron_packing.index.packable import all_dropped, packable_lengths, refuse_overlong
from megatron_packing.planning.plan import plan_packs
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.planning.strategies import STRATEGIES
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
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_planning_arguments(parser, without=("strategy", "min_packs", "packs_multiple_of"))
    parser.add_argument(
        "--global-batch-size",
        type=int,
        default=128,
        metavar="N",
        help="rows of a step (default: 128)",
    )
    add_model_arguments(parser)


def run(args: Namespace) -> dict[str, Any]:
    """Compare."""
    for flag, number in (
        ("--sequence-length", args.sequence_length),
        ("--global-batch-size", args.global_batch_size),
    ):
        if number < 1:
            raise InputError(f"{flag} is {number}; it must be at least 1")
    model = model_of(args)
    documents = open_documents(args)
    refuse_other_tokenizers(documents, args)
    source = documents.prefix
    kept, numbers = packable_lengths(documents.num_tokens, source)
    if args.overlong == "error":
        refuse_overlong(kept, numbers, args.sequence_length, source)
    lengths, dropped, truncated = _without_overlong(kept, source, args)
    num_positions = int(lengths.sum(dtype=np.int64))
    comparison = Comparison(
        source=str(source),
        sequence_length=args.sequence_length,
        global_batch_size=args.global_batch_size,
        model=model,
        num_documents=len(lengths),
        num_positions=num_positions,
        num_documents_dropped=dropped,
        num_documents_truncated=truncated,
        num_documents_empty=len(documents) - len(kept),
        num_positions_lost=int(kept.sum(dtype=np.int64)) - num_positions,
        plans=_plan_all(lengths, args),
    )
    console.print(describe_comparison(comparison, console.width), soft_wrap=False)
    return comparison.as_record()


def _without_overlong(
    lengths: NDArray[np.integer], source: Path, args: Namespace
) -> tuple[NDArray[np.integer], int, int]:
    """Drop or truncate what is longer than a row, so that all strategies pack the same positions.

    Strategies that cut documents know no dropping and truncating themselves.

    Returns:
        The lengths to plan; how many documents were dropped; how many were truncated.

    Raises:
        SettingError: All documents would be dropped.
    """
    row = args.sequence_length
    over = lengths > row
    count = int(np.count_nonzero(over))
    if count == 0 or args.overlong == "split":
        return lengths, 0, 0
    if args.overlong == "truncate":
        return np.minimum(lengths, row), 0, count
    if count == len(lengths):
        raise all_dropped(row, source)
    return lengths[~over], count, 0


def _plan_all(lengths: NDArray[np.integer], args: Namespace) -> tuple[PlanFigures, ...]:
    figures: list[PlanFigures] = []
    overlong = "split" if args.overlong == "split" else "error"  # others are out already
    with progress_bar("planning", len(STRATEGIES)) as progress:
        for strategy in STRATEGIES:

            def show(share: float, name: str = strategy) -> None:
                progress.update(len(figures) + share, name)

            started = time.perf_counter()
            settings = PlanSettings.from_arguments(args, strategy=strategy, overlong=overlong)
            plan = plan_packs(lengths, settings, progress=show)
            seconds = time.perf_counter() - started
            figures.append(measure(plan, lengths, strategy, seconds))
    return tuple(figures)
