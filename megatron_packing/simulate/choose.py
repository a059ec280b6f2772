# SPDX-License-Identifier: Apache-2.0
"""Chooses a layout in which a model fits into memory and steps are short."""

from __future__ import annotations

from itertools import product

import numpy as np

from megatron_packing.errors import InputError
from megatron_packing.flops.model import ModelShape
from megatron_packing.planning.rows import Rows
from megatron_packing.simulate.costs import Costs, Experts, refuse_hybrid
from megatron_packing.simulate.hardware import GPUS_PER_NODE, Device
from megatron_packing.simulate.layout import Layout
from megatron_packing.simulate.step import passes_of, update_seconds

_ABOUT_AS_SHORT = 1.03
_MOST_RANKS = 64  # of one parallel size


def choose_costs(
    model: ModelShape,
    device: Device,
    *,
    gpus: int,
    sequence_length: int,
    global_batch_size: int,
    experts: Experts | None = None,
    recompute: bool = False,
    **given: int,
) -> Costs:
    """Choose the parallel sizes that are not given: those of the shortest predicted step.

    Steps are compared for equal rows, half of whose positions are one document. Where several are
    about as short, the one with the least pipeline, context and tensor parallelism is taken. Sizes
    are powers of two; tensor parallelism stays within a node.

    Args:
        model: The model.
        device: The GPU.
        gpus: All GPUs.
        sequence_length: Positions in a row.
        global_batch_size: Rows of a step.
        experts: What makes the model one with experts.
        recompute: Whether layers must be computed again in the backward pass. Otherwise it is
            chosen too.
        **given: Sizes that are given: ``tensor``, ``pipeline``, ``virtual``, ``context``,
            ``expert``.

    Raises:
        InputError: No such layout fits, a given size is wrong, or the model is a hybrid one.
    """
    refuse_hybrid(model)
    found: list[tuple[float, Costs]] = []
    too_large: list[Costs] = []
    problem: InputError | None = None
    for again, tensor, context, pipeline in product(
        (True,) if recompute else (False, True),
        _sizes(given.get("tensor"), GPUS_PER_NODE),
        _sizes(given.get("context"), gpus),
        _sizes(given.get("pipeline"), gpus),
    ):
        sizes = given | {"tensor": tensor, "context": context, "pipeline": pipeline}
        try:
            layout = Layout.of_gpus(gpus, **sizes)
            layout.rows_of_a_rank(global_batch_size)
            costs = Costs(
                model=model,
                layout=layout,
                device=device,
                experts=experts or Experts(),
                recompute=again,
            )
        except InputError as error:
            problem = problem or error  # the first is of the least sizes
            continue
        if costs.fits(sequence_length):
            seconds = _equal_step(costs, sequence_length, global_batch_size)
            found.append((seconds, costs))
        else:
            too_large.append(costs)
    if not found and too_large:
        raise _needs_more(too_large, sequence_length)
    if not found and problem is not None:
        raise problem
    least = min(seconds for seconds, _ in found)
    short = [costs for seconds, costs in found if seconds <= least * _ABOUT_AS_SHORT]
    return min(
        short,
        key=lambda costs: (costs.layout.pipeline, costs.layout.context, costs.layout.tensor),
    )


def _needs_more(tried: list[Costs], sequence_length: int) -> InputError:
    """Name the layout that needs the least memory of those that do not fit."""
    least = min(tried, key=lambda costs: costs.memory(sequence_length))
    device = least.device
    return InputError(
        f"{least.model.name} with rows of {sequence_length:,} needs about "
        f"{least.memory(sequence_length) / 1e9:,.0f} GB on a GPU in the layout "
        f"{least.layout.describe()}, the least of those that were tried, and {device.name} has "
        f"{device.memory / 1e9:,.0f} GB; give more GPUs, or larger tensor-, pipeline- or "
        f"context-parallel sizes"
    )


def _equal_step(costs: Costs, sequence_length: int, global_batch_size: int) -> float:
    """Seconds of a step of equal rows: as many as fill the pipeline, on its slowest stage."""
    layout = costs.layout
    row = np.array([[sequence_length]])
    rows = Rows(
        positions=row,
        squares=row**2 // 4,
        real_positions=row,
        documents=np.ones_like(row),
    )
    forward, backward = (one.total for one in passes_of(costs, rows))
    slowest = float((forward + backward).sum(axis=2).max())
    filled = layout.rows_of_a_rank(global_batch_size) + (layout.pipeline - 1) / layout.virtual
    transfers = 2 * (layout.pipeline - 1) * costs.transfer_seconds(sequence_length)
    return slowest * filled + transfers + update_seconds(costs, forward, backward)


def _sizes(given: int | None, most: int) -> list[int]:
    """The size that is given, or those to try."""
    if given is not None:
        return [given]
    sizes = [1]
    while sizes[-1] * 2 <= min(most, _MOST_RANKS):
        sizes.append(sizes[-1] * 2)
    return sizes
