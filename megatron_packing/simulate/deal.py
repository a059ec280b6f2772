# SPDX-License-Identifier: Apache-2.0
"""Deals rows to the data-parallel ranks of a step, as training does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing.flops.model import WorkModel
from megatron_packing.planning.rows import Rows


def deal_rows(
    rows: Rows,
    order: NDArray[np.int64],
    *,
    num_ranks: int,
    global_batch_size: int,
    balance: WorkModel | None = None,
) -> NDArray[np.int64]:
    """Say which rank computes which row in which micro-batch.

    Rank r takes every ``num_ranks``-th row of a global batch from its r-th on, as Megatron's
    sampler deals micro-batches of one row.

    Args:
        rows: The rows.
        order: Numbers of rows in the order of training, shape ``(num_steps * global_batch_size,)``.
        num_ranks: Data-parallel ranks.
        global_batch_size: Rows of a step.
        balance: The work that ``--packing-balance`` evens out; None without it.

    Returns:
        Numbers of rows, shape ``(num_steps, num_ranks, global_batch_size // num_ranks)``.
    """
    batches = order.reshape(-1, global_batch_size)
    if balance is not None:
        work = balance.total(rows.positions, rows.squares)
        batches = np.array([batch[_core.balance(work[batch], num_ranks)] for batch in batches])
    return batches.reshape(len(batches), -1, num_ranks).transpose(0, 2, 1)
