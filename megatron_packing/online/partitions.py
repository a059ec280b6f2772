# SPDX-License-Identifier: Apache-2.0
"""Partitions of documents with even sums, as verl and slime ask for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megatron_packing.planning.step import plan_step


def get_seqlen_balanced_partitions(
    seqlen_list: Sequence[float], k_partitions: int, equal_size: bool
) -> list[list[int]]:
    """Split documents into partitions whose sums are about the same.

    Replaces the function of this name in ``verl.utils.seqlen_balancing`` and
    ``slime.utils.seqlen_balancing``, which use the largest differencing method of Karmarkar and
    Karp. verl calls it twice: for the documents of every rank, and for a rank's micro-batches.

    Args:
        seqlen_list: Shape ``(num_documents,)``: length or cost of each document, at least 0.
        k_partitions: Number of partitions.
        equal_size: Whether all partitions have the same number of documents.

    Returns:
        ``k_partitions`` lists of indices into ``seqlen_list``, ascending. None is empty.

    Raises:
        ValueError: There are fewer documents than partitions, or with ``equal_size`` their number
            is not a multiple of ``k_partitions``.
    """
    count = len(seqlen_list)
    if equal_size and count % k_partitions:
        raise ValueError(
            f"{count} documents do not make {k_partitions} partitions of the same size; give a "
            f"multiple of {k_partitions}, or equal_size=False"
        )
    plan = plan_step(
        np.ones(count, np.int64),
        budget=count,
        num_ranks=k_partitions,
        work=np.asarray(seqlen_list),
        max_documents=count // k_partitions if equal_size else None,
    )
    return [rank[0].tolist() for rank in plan.micro_batches]
