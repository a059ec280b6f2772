# SPDX-License-Identifier: Apache-2.0
"""Deals rows to the data-parallel ranks of each step, as training does."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from megatron_packing.flops.model import WorkModel
from megatron_packing.planning.rows import Rows
from megatron_packing.stream.balance import balance_batch
from megatron_packing.stream.even_order import FEWEST_MICRO_BATCHES, EvenOrder, EvenSettings
from megatron_packing.stream.order import pack_at

Dealing = Literal["random", "balanced", "even"]
"""How steps get their rows: in the default order, in it with ``--packing-balance``, or with
``--packing-order even``."""
DEALINGS: tuple[Dealing, ...] = get_args(Dealing)


def dealings_of(num_ranks: int, global_batch_size: int) -> tuple[Dealing, ...]:
    """The ways to deal that a layout can have.

    Args:
        num_ranks: Data-parallel ranks.
        global_batch_size: Rows of a step. An even order needs ``FEWEST_MICRO_BATCHES`` a rank.
    """
    return DEALINGS if global_batch_size >= FEWEST_MICRO_BATCHES * num_ranks else DEALINGS[:2]


def deal_epoch(
    dealing: Dealing,
    rows: Rows,
    *,
    num_ranks: int,
    pipelined: bool,
    global_batch_size: int,
    model: WorkModel,
    seed: int,
    most_steps: int,
) -> NDArray[np.int64]:
    """Say which rank computes which row in which micro-batch of the first steps of an epoch.

    Rank r takes every ``num_ranks``-th row of a global batch from its r-th on, as Megatron's
    sampler deals micro-batches of one row.

    Args:
        dealing: How steps get their rows.
        rows: All rows of the epoch.
        num_ranks: Data-parallel ranks.
        pipelined: Whether ranks have several pipeline stages.
        global_batch_size: Rows of a step, a multiple of ``num_ranks``.
        model: The work that is made even.
        seed: Decides the order of rows.
        most_steps: Steps at most; whole ones, and one at least. If the epoch has fewer rows than a
            step, the step takes rows of the next epoch too.

    Returns:
        Numbers of rows, shape ``(num_steps, num_ranks, global_batch_size // num_ranks)``.
    """
    num_steps = max(1, min(most_steps, len(rows) // global_batch_size))
    samples = range(num_steps * global_batch_size)
    if dealing == "even":
        settings = EvenSettings.of(model, ranks=num_ranks, batch=global_batch_size)
        work = model.total(rows.positions.astype(np.float64), rows.squares.astype(np.float64))
        order = EvenOrder(work, settings, seed)
        packs = np.array([order.pack_at(sample) for sample in samples], np.int64)
    else:
        packs = np.array([pack_at(sample, len(rows), seed) for sample in samples], np.int64)
    batches = packs.reshape(-1, global_batch_size)
    if dealing == "balanced":
        work = model.total(rows.positions, rows.squares)
        batches = np.array(
            [batch[balance_batch(work[batch], num_ranks, pipelined=pipelined)] for batch in batches]
        )
    return batches.reshape(len(batches), -1, num_ranks).transpose(0, 2, 1)
