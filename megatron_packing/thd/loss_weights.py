# SPDX-License-Identifier: Apache-2.0
"""Computes the weight of each trained token in the loss of a global batch.

The loss is the sum of weight * loss over all trained tokens of the batch, divided by the sum of the
rows' denominators. Weights and denominators depend only on documents. So packs, micro-batches and
ranks do not change the loss, as long as documents are not split. The normalizers are:

    token      every trained token has weight 1; the denominator counts trained tokens
    sequence   every document has equal weight (LongAlign, arXiv 2401.18058, section 3.2)
    turn       every turn of a document has equal weight; a turn is a run of trained tokens

Megatron stores denominators as 32-bit integers. A document or turn that is whole in its row counts
``SHARES``. If it is split, each of its rows counts a part of ``SHARES``, rounded, at least 1. A
global batch can hold eight million documents or turns.
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
    """Compute the weights of a row's trained tokens.

    Args:
        loss_mask: Shape ``(sequence_length,)``: 1 at trained labels.
        corpus: The corpus with the loss masks of documents, read for split documents.
        segments: The segments of the row's pack.
        placement: Their positions in the row.
        normaliser: The unit that has equal weight in the loss.
        parts_are_elsewhere: Whether positions of a document outside its segment are trained in
            other rows; False if they were cut off.

    Returns:
        The weights, ``(sequence_length,)``, and the row's denominator.
    """
    if normaliser == "token":
        return loss_mask.astype(np.float32), int(np.count_nonzero(loss_mask))
    weights = np.zeros(len(loss_mask), np.float32)
    denominator = 0
    for (document, start, length), offset in zip(segments, placement.starts.tolist(), strict=True):
        num_positions = int(corpus.num_tokens[document]) - 1
        if parts_are_elsewhere and length < num_positions:
            trained = np.asarray(corpus.loss_mask(document, 1, num_positions + 1)) != 0
            begin = start
        else:
            trained, begin = loss_mask[offset : offset + length] != 0, 0
        positions = np.flatnonzero(trained)
        if len(positions) == 0:
            continue
        unit = np.zeros(len(positions), np.int64)  # the document or turn of each position
        if normaliser == "turn":
            unit[1:] = np.cumsum(np.diff(positions) > 1)
        here = (positions >= begin) & (positions < begin + length)
        in_row = np.bincount(unit[here], minlength=unit[-1] + 1)
        shares = np.rint(SHARES * in_row / np.bincount(unit)).astype(np.int64)
        shares = np.maximum(shares, in_row > 0)
        weights[offset + positions[here] - begin] = (shares / np.maximum(in_row, 1))[unit[here]]
        denominator += int(shares.sum())
    return weights, denominator
