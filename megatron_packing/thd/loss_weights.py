# SPDX-License-Identifier: Apache-2.0
"""How much each trained token weighs in the loss of a global batch.

The loss is the sum of weight * loss over all trained tokens of the batch, divided by the sum of the
rows' denominators. Weights and denominators come from documents alone, so neither the packs nor the
micro-batches nor the ranks that share the batch change it, where documents are whole:

    token      each trained token weighs the same: weight 1; trained tokens
    sequence   each document weighs the same (LongAlign, arXiv 2401.18058, section 3.2)
    turn       each turn of a document weighs the same; a turn is a run of trained tokens

Megatron counts denominators in 32-bit integers. A document or turn that is whole in its row counts
``SHARES``; one that was split counts its part of that in each of its rows, rounded, at least
1. A global batch may hold eight million of them.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.index.pack_index import Segments
from megatron_packing.thd.layout import Placement

Normaliser = Literal["token", "sequence", "turn"]

NORMALISERS: tuple[Normaliser, ...] = get_args(Normaliser)

SHARES = 256


def weigh(
    loss_mask: NDArray[np.uint8],
    corpus: TokenDocuments,
    segments: Segments,
    placement: Placement,
    normaliser: Normaliser,
    *,
    parts_are_elsewhere: bool,
) -> tuple[NDArray[np.float32], int]:
    """Weigh the trained tokens of a row.

    Args:
        loss_mask: Shape ``(sequence_length,)``: 1 where the label is trained.
        corpus: Where the loss masks of documents are, for those that were split.
        segments: Of the row's pack.
        placement: Of its segments.
        normaliser: What weighs the same.
        parts_are_elsewhere: Whether positions of a document that are not in its segment are
            trained in other rows; False where they were cut off.

    Returns:
        The weights, ``(sequence_length,)``, and the row's denominator.
    """
    if normaliser == "token":
        return loss_mask.astype(np.float32), int(np.count_nonzero(loss_mask))
    weights = np.zeros(len(loss_mask), np.float32)
    denominator = 0
    for (document, start, length), row in zip(segments, placement.starts.tolist(), strict=True):
        num_positions = int(corpus.num_tokens[document]) - 1
        if parts_are_elsewhere and length < num_positions:
            trained = np.asarray(corpus.loss_mask(document, 1, num_positions + 1)) != 0
            begin = start
        else:
            trained, begin = loss_mask[row : row + length] != 0, 0
        positions = np.flatnonzero(trained)
        if len(positions) == 0:
            continue
        unit = np.zeros(len(positions), np.int64)  # the document, or the turn of each position
        if normaliser == "turn":
            unit[1:] = np.cumsum(np.diff(positions) > 1)
        here = (positions >= begin) & (positions < begin + length)
        in_row = np.bincount(unit[here], minlength=unit[-1] + 1)
        shares = np.rint(SHARES * in_row / np.bincount(unit)).astype(np.int64)
        shares = np.maximum(shares, in_row > 0)
        weights[row + positions[here] - begin] = (shares / np.maximum(in_row, 1))[unit[here]]
        denominator += int(shares.sum())
    return weights, denominator
