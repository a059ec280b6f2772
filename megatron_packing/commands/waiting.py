# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that say how long ranks wait for each other."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _ArgumentGroup
from dataclasses import asdict
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.flops.model import ModelShape
from megatron_packing.planning.rows import Rows
from megatron_packing.report.console import console
from megatron_packing.report.waiting import describe_waiting
from megatron_packing.simulate.deal import deal_epoch, dealings_of
from megatron_packing.simulate.waiting import measure_waiting

_MOST_STEPS = 256  # of an epoch are measured, so that a huge one takes no time
_AT_LEAST_1 = ("global_batch_size", "data_parallel", "pipeline_parallel", "virtual_pipeline")


def add_waiting_arguments(parser: ArgumentParser) -> _ArgumentGroup:
    """Declare batch and layout; return the group of options, for further ones."""
    parser.add_argument(
        "--global-batch-size",
        type=int,
        default=128,
        metavar="N",
        help="rows of a step (default: 128)",
    )
    group = parser.add_argument_group("waiting", "how long ranks wait for each other in a step")
    group.add_argument(
        "--data-parallel",
        type=int,
        metavar="N",
        help="data-parallel ranks; their waiting is shown for each order of packs (default: it is "
        "not shown)",
    )
    group.add_argument(
        "--pipeline-parallel",
        type=int,
        default=1,
        metavar="N",
        help="pipeline stages of a rank (default: 1)",
    )
    group.add_argument(
        "--virtual-pipeline",
        type=int,
        default=1,
        metavar="N",
        help="model chunks of each stage; above 1 the schedule is interleaved (default: 1)",
    )
    return group


def check_waiting_arguments(args: Namespace) -> None:
    """Check batch and layout, before anything is planned.

    Raises:
        InputError: A number is too small, or ranks would have different numbers of rows.
    """
    for name in _AT_LEAST_1:
        value = getattr(args, name)
        if value is not None and value < 1:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is {value}; it must be at least 1")
    ranks, stages = args.data_parallel, args.pipeline_parallel
    if ranks is None:
        for name in ("pipeline_parallel", "virtual_pipeline"):
            if getattr(args, name) > 1:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag} is given without --data-parallel; give both")
        return
    if args.global_batch_size % ranks:
        raise InputError(
            f"--global-batch-size is {args.global_batch_size}, no multiple of the {ranks} of "
            f"--data-parallel; each rank needs as many rows as the others"
        )
    if args.virtual_pipeline > 1 and (stages == 1 or args.global_batch_size // ranks % stages):
        raise InputError(
            f"--virtual-pipeline is {args.virtual_pipeline}, with {stages} pipeline stages and "
            f"{args.global_batch_size // ranks} rows a rank; an interleaved schedule needs two "
            f"stages or more, and a multiple of them of rows"
        )


def show_waiting(rows: Rows, model: ModelShape, args: Namespace) -> dict[str, Any]:
    """Measure an epoch under each order that the layout can have, print it, and return it for JSON.

    Args:
        rows: All rows of the epoch.
        model: The model that computes them.
        args: Checked by :func:`check_waiting_arguments`; with ``--data-parallel``.
    """
    ranks, batch = args.data_parallel, args.global_batch_size
    work, found = model.work_model(), {}
    for dealing in dealings_of(ranks, batch):
        dealt = deal_epoch(
            dealing,
            rows,
            num_ranks=ranks,
            pipelined=args.pipeline_parallel > 1,
            global_batch_size=batch,
            model=work,
            seed=args.seed,
            most_steps=_MOST_STEPS,
        )
        found[dealing] = measure_waiting(
            rows, dealt, work, pipeline=args.pipeline_parallel, virtual=args.virtual_pipeline
        )
    described = describe_waiting(
        found,
        model_name=model.name,
        num_ranks=ranks,
        global_batch_size=batch,
        pipeline=args.pipeline_parallel,
    )
    console.print(described, soft_wrap=False)
    return {dealing: asdict(one) for dealing, one in found.items()}
