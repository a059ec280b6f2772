# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing report``."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

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
from megatron_packing.index.packable import FittedLengths, fit_lengths
from megatron_packing.page.charts import require_matplotlib
from megatron_packing.page.whole import is_page, make_page
from megatron_packing.planning.plan import PackPlan, plan_packs
from megatron_packing.planning.rows import rows_of_plan
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.planning.strategies import BASELINE, BEST, STRATEGIES
from megatron_packing.report.advice import advise, describe_advice
from megatron_packing.report.compare import Comparison, PlanFigures, measure
from megatron_packing.report.console import console, progress_bar
from megatron_packing.report.data_report import BALANCED, DataReport, LengthReport
from megatron_packing.report.json_output import is_result, refuse_other_content
from megatron_packing.report.randomness import Randomness, measure_randomness
from megatron_packing.report.simulate import Simulation
from megatron_packing.simulate.deal import Dealing
from megatron_packing.simulate.epoch import Epoch, predict_epoch

HELP = "write a page that shows what each strategy makes of the data, and what to do"
EXAMPLE = (
    "megatron-packing report data/chat --sequence-length 4096 8192 --overlong split -o report.html"
)
JSON_KEYS = {
    "source": "the corpora or the file of lengths",
    "num_documents": "documents of two or more tokens",
    "num_positions": "their positions",
    "mean_positions": "of a document",
    "quantiles": "positions that a half, 9 of 10 and 99 of 100 documents have at most",
    "longest": "positions of the longest document",
    "sequence_lengths": "for each its comparison, as of compare; its simulation, as of simulate, "
    "with every strategy; and the randomness of each strategy",
    "advice": "topic, text and the number that it rests on",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_planning_arguments(
        parser,
        without=("strategy", "min_packs", "packs_multiple_of"),
        overrides={
            "sequence_length": {
                "nargs": "+",
                "metavar": "L",
                "help": "positions in a row; the page is about the first of several, and compares "
                "it with the others",
            }
        },
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE.html",
        help="the page to write; the same numbers go beside it, as FILE.json",
    )
    add_prediction_arguments(parser)


def run(args: Namespace) -> dict[str, Any]:
    """Report."""
    if args.output.suffix not in (".html", ".htm"):
        raise InputError(f"--output is {args.output}; give the name of a page, such as report.html")
    data = args.output.with_suffix(".json")
    refuse_other_content(args.output, "--output", is_page)
    refuse_other_content(data, f"--output {args.output}", lambda text: is_result(text, JSON_KEYS))
    for length in args.sequence_length:
        if length < 1:
            raise InputError(f"--sequence-length is {length}; it must be at least 1")
    require_matplotlib()
    started = time.perf_counter()
    documents = open_documents(args)
    refuse_other_tokenizers(documents, args)
    fitted = {
        length: fit_lengths(documents.num_tokens, documents.prefix, length, args.overlong)
        for length in args.sequence_length
    }
    with progress_bar("planning", len(fitted)) as progress:
        reports = []
        for number, (length, of_length) in enumerate(fitted.items()):
            progress.update(number, f"rows of {length:,}")
            reports.append(_report_length(of_length, documents.prefix, length, args))
    main, *others = reports
    lengths = fitted[args.sequence_length[0]].packable
    report = DataReport(
        source=str(documents.prefix),
        document_lengths=lengths,
        lengths=tuple(reports),
        advice=advise(
            main.comparison,
            lengths,
            simulation=main.simulation,
            others=tuple(other.simulation for other in others),
            most_documents=args.max_documents_per_pack,
        ),
    )
    record = report.as_record()
    page = make_page(report)
    write_whole(args.output, page)
    write_whole(data, json.dumps(record, indent=2) + "\n")
    console.print(describe_advice(report.advice), soft_wrap=False)
    console.print(
        f"wrote {args.output} ({len(page.encode()) / 1e6:.2f} MB) and {data} "
        f"in {time.perf_counter() - started:.2f} s"
    )
    return record


def _report_length(
    fitted: FittedLengths, source: Path | str, sequence_length: int, args: Namespace
) -> LengthReport:
    """Plan, measure and predict every strategy at one sequence length."""
    costs = costs_of(args, sequence_length)
    alignment = alignment_of(args, costs)
    figures: list[PlanFigures] = []
    epochs: list[Epoch] = []
    plans: dict[str, PackPlan] = {}
    randomness: dict[str, Randomness] = {}
    for strategy in STRATEGIES:
        started = time.perf_counter()
        settings = PlanSettings.from_arguments(
            args,
            strategy=strategy,
            sequence_length=sequence_length,
            alignment=alignment,
            overlong=fitted.overlong,
        )
        plan = plan_packs(fitted.lengths, settings)
        figures.append(measure(plan, fitted.lengths, strategy, time.perf_counter() - started))
        plans[strategy] = plan
        rows = rows_of_plan(plan, fitted.lengths, masked=strategy != BASELINE)
        randomness[strategy] = measure_randomness(
            plan,
            fitted.lengths,
            rows,
            global_batch_size=args.global_batch_size,
            seed=args.seed,
        )
        ways: dict[str, Dealing] = {strategy: "random"}
        if strategy == BEST:
            ways[BALANCED] = "balanced"
        epochs += [
            predict_epoch(
                way,
                rows,
                costs,
                global_batch_size=args.global_batch_size,
                most_steps=args.steps,
                seed=args.seed,
                dealing=dealing,
            )
            for way, dealing in ways.items()
        ]
    comparison = Comparison.of(
        fitted,
        figures,
        source=source,
        sequence_length=sequence_length,
        global_batch_size=args.global_batch_size,
        model=costs.model,
    )
    return LengthReport(
        comparison=comparison,
        simulation=Simulation(
            source=str(source),
            sequence_length=sequence_length,
            alignment=alignment,
            global_batch_size=args.global_batch_size,
            num_documents=len(fitted.lengths),
            num_positions=fitted.num_positions,
            costs=costs,
            epochs=tuple(epochs),
        ),
        plans=plans,
        lengths=fitted.lengths,
        randomness=randomness,
    )
