# SPDX-License-Identifier: Apache-2.0
"""How random a plan is: which documents meet in a pack, and how steps differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_packing.planning.plan import PackPlan
from megatron_packing.planning.rows import Rows
from megatron_packing.stream.order import pack_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Randomness:
    """Figures of a plan in the order of training. None where nothing can be compared."""

    length_correlation: float | None
    """Of the logarithms of the lengths of two neighbors in a pack: 0 where neighbors have nothing
    to do with each other, 1 where a pack has documents of one length."""
    neighbor_distance: float | None
    """How far apart neighbors are in the input, over the distance of random pairs: 1 where the
    input's order has left no trace."""
    order_correlation: float | None
    """Of documents in a pack and in the pack that is trained after it: 0 where that is random."""
    documents_spread: float
    """Standard deviation of documents in a step over their mean."""
    positions_spread: float
    """Standard deviation of documents' positions in a step over their mean."""


def measure_randomness(
    plan: PackPlan,
    lengths: NDArray[np.integer],
    rows: Rows,
    *,
    global_batch_size: int,
    seed: int,
) -> Randomness:
    """Measure a plan.

    Args:
        plan: The plan.
        lengths: Shape ``(num_documents,)``: positions of the planned documents.
        rows: The plan's rows.
        global_batch_size: Rows of a step. If an epoch has fewer, it is taken for one step.
        seed: Decides the order of packs.
    """
    is_last = np.zeros(len(plan.document_ids), bool)
    ends = np.asarray(plan.pack_offsets[1:])
    is_last[ends[ends > 0] - 1] = True
    first = np.flatnonzero(~is_last[:-1]) if len(is_last) > 1 else np.zeros(0, np.int64)
    documents = plan.document_ids.astype(np.int64)
    one, other = documents[first], documents[first + 1]
    different = one != other
    one, other = one[different], other[different]
    order = [pack_at(sample, len(rows), seed) for sample in range(len(rows))]
    in_order = rows.take(np.array(order, np.int64))
    batch = min(global_batch_size, len(rows))
    whole = len(rows) // batch * batch
    steps = [
        values[:whole].reshape(-1, batch).sum(axis=1)
        for values in (in_order.documents, in_order.real_positions)
    ]
    logarithms = np.log(lengths.astype(np.float64))
    distance = None
    if len(one) and len(lengths) > 1:
        random_distance = (len(lengths) + 1) / 3  # the mean over all pairs of different documents
        distance = float(np.abs(one - other).mean() / random_distance)
    return Randomness(
        length_correlation=_correlation(
            np.concatenate([logarithms[one], logarithms[other]]),
            np.concatenate([logarithms[other], logarithms[one]]),
        ),
        neighbor_distance=distance,
        order_correlation=_correlation(
            in_order.documents[:-1].astype(np.float64), in_order.documents[1:].astype(np.float64)
        ),
        documents_spread=float(steps[0].std() / steps[0].mean()),
        positions_spread=float(steps[1].std() / steps[1].mean()),
    )


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    if len(one) < 3 or one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])
