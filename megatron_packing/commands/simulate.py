# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing simulate``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np

from megatron_packing.commands.planning import (
    add_planning_arguments,
    open_documents,
    refuse_other_tokenizers,
)
from megatron_packing.commands.prediction import (
    add_prediction_arguments,
    alignment_of,
    costs_of,
)
from megatron_packing.errors import InputError
from megatron_packing.files.whole import write_whole
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.packable import fit_lengths
from megatron_packing.index.rows import rows_of_index
from megatron_packing.index.source import open_source
from megatron_packing.page.timeline import draw_timeline
from megatron_packing.planning.plan import plan_packs
from megatron_packing.planning.rows import Rows, rows_of_plan
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.report.console import console, progress_bar
from megatron_packing.report.json_output import refuse_other_content
from megatron_packing.report.simulate import Simulation, describe_setting, describe_simulation
from megatron_packing.simulate.deal import Dealing, dealings_of
from megatron_packing.simulate.epoch import WAYS, Epoch, predict_epoch
from megatron_packing.thd.alignment import segment_alignment

HELP = "predict the time of training steps for a model and a layout, from lengths alone"
EXAMPLE = "megatron-packing simulate data/chat --sequence-length 8192 --overlong split --gpus 64"
JSON_KEYS = {
    "source": "the corpora, the file of lengths, or the index",
    "sequence_length": "positions in a row",
    "alignment": "positions of which each document takes a multiple",
    "global_batch_size": "in rows",
    "num_documents": "documents that were planned",
    "num_positions": "their positions",
    "model": "its sizes",
    "experts": "of a layer, and of a token",
    "layout": "parallel sizes",
    "gpus": "all of them",
    "gpu": "its rates, in operations and bytes a second",
    "recompute": "whether layers are computed again in the backward pass",
    "memory_bytes": "that the fullest GPU needs, estimated",
    "ways": "for each way its rows, steps, seconds of a step and their parts, bubble, idle, ...",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_planning_arguments(
        parser,
        without=("strategy", "min_packs", "packs_multiple_of"),
        overrides={
            "sequence_length": {
                "required": False,
                "default": None,
                "help": "positions in a row (default: that of --index)",
            }
        },
    )
    parser.add_argument(
        "--index",
        type=Path,
        metavar="DIR",
        help="in place of a corpus: a pack index, simulated as it is (default: none)",
    )
    parser.add_argument(
        "--timeline",
        type=Path,
        metavar="FILE.svg",
        help="draw there what each pipeline stage of the first rank does in the first step, of the "
        "last way in the table (default: no drawing)",
    )
    add_prediction_arguments(parser)


def run(args: Namespace) -> dict[str, Any]:
    """Simulate."""
    if args.timeline is not None:
        if args.timeline.suffix != ".svg":
            raise InputError(
                f"--timeline is {args.timeline}; give the name of a drawing, such as step.svg"
            )
        refuse_other_content(args.timeline, "--timeline", lambda text: text.startswith("<svg"))
    simulation = _of_an_index(args) if args.index is not None else _of_documents(args)
    console.print(describe_simulation(simulation), soft_wrap=False)
    if args.timeline is not None:
        shown = simulation.epochs[-1]
        title = f"{shown.way}: {describe_setting(simulation)}"
        picture = draw_timeline(shown.prediction.timeline, title=title, alone=True)
        write_whole(args.timeline, picture + "\n")
        console.print(f"wrote {args.timeline}: a step of {shown.way}")
    return simulation.as_record()


def _of_documents(args: Namespace) -> Simulation:
    if args.sequence_length is None or args.sequence_length < 1:
        given = "not given" if args.sequence_length is None else args.sequence_length
        raise InputError(f"--sequence-length is {given}; give positions in a row, at least 1")
    costs = costs_of(args, args.sequence_length)
    alignment = alignment_of(args, costs)
    documents = open_documents(args)
    refuse_other_tokenizers(documents, args)
    fitted = fit_lengths(
        documents.num_tokens, documents.prefix, args.sequence_length, args.overlong
    )
    epochs = []
    possible = dealings_of(costs.layout.data, args.global_batch_size)
    ways = {way: made for way, made in WAYS.items() if made[1] in possible}
    with progress_bar("simulating", len(ways)) as progress:
        rows_of: dict[str, Rows] = {}
        for number, (way, (strategy, dealing)) in enumerate(ways.items()):
            progress.update(number, way)
            if strategy not in rows_of:
                settings = PlanSettings.from_arguments(
                    args,
                    strategy=strategy,
                    alignment=alignment,
                    overlong=fitted.overlong,
                )
                plan = plan_packs(fitted.lengths, settings)
                # A padded row comes without cu_seqlens: it attends to all before it.
                masked = strategy != "padding"
                rows_of[strategy] = rows_of_plan(plan, fitted.lengths, masked=masked)
            epochs.append(_predict(way, rows_of[strategy], costs, args, dealing))
    return Simulation(
        source=str(documents.prefix),
        sequence_length=args.sequence_length,
        alignment=alignment,
        global_batch_size=args.global_batch_size,
        num_documents=len(fitted.lengths),
        num_positions=fitted.num_positions,
        costs=costs,
        epochs=tuple(epochs),
    )


def _of_an_index(args: Namespace) -> Simulation:
    if args.prefixes or args.lengths is not None:
        raise InputError(
            f"--index {args.index} is given together with "
            f"{'--lengths' if args.lengths else args.prefixes[0]}; give one of them"
        )
    index = PackIndex.open(args.index)
    row = index.plan.sequence_length
    if args.sequence_length not in (None, row):
        raise InputError(
            f"--sequence-length is {args.sequence_length}, but {args.index} has rows of {row}; "
            f"leave it out"
        )
    costs = costs_of(args, row)
    needed = segment_alignment(costs.layout.context)
    if index.plan.alignment % needed:
        raise InputError(
            f"{args.index} has the alignment {index.plan.alignment}; context parallelism over "
            f"{costs.layout.context} GPUs needs a multiple of {needed}: make it again with "
            f"--alignment {needed}"
        )
    has_lengths = index.segment_lengths is not None
    num_tokens = None if has_lengths else np.asarray(open_source(index).num_tokens)
    rows = rows_of_index(index, num_tokens)
    possible = dealings_of(costs.layout.data, args.global_batch_size)
    ways = {
        way.replace("optimal", index.plan.strategy): dealing
        for way, (strategy, dealing) in WAYS.items()
        if strategy == "optimal" and dealing in possible
    }
    return Simulation(
        source=str(args.index),
        sequence_length=row,
        alignment=index.plan.alignment,
        global_batch_size=args.global_batch_size,
        num_documents=index.num_documents,
        num_positions=index.figures.num_positions,
        costs=costs,
        epochs=tuple(_predict(way, rows, costs, args, dealing) for way, dealing in ways.items()),
    )


def _predict(way: str, rows: Rows, costs: Any, args: Namespace, dealing: Dealing) -> Epoch:
    return predict_epoch(
        way,
        rows,
        costs,
        global_batch_size=args.global_batch_size,
        most_steps=args.steps,
        seed=args.seed,
        dealing=dealing,
    )
