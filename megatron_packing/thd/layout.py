"""Lays a pack out in its row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.index.pack_index import Segments

_BUCKETS = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """One row.

    Arrays of shape ``(sequence_length,)`` are aligned: the label at a position is the token after
    its input, in the same document.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    loss_mask: NDArray[np.float32]
    """1 where the label is trained; 0 elsewhere and in the tail."""
    position_ids: NDArray[np.int64]
    """From 0 in each segment, as Megatron's rotary embeddings count for THD."""
    cu_seqlens: NDArray[np.int32]
    """Starts of the segments, then ``sequence_length`` up to the width asked for. What the
    documents leave free is a segment of its own, so the last entry always covers the row."""
    max_seqlen: int
    """At least the longest segment, rounded up to one of a few values."""


def lay_out(
    corpus: TokenDocuments,
    segments: Segments,
    sequence_length: int,
    cu_seqlens_width: int,
    pad_token: int,
) -> Layout:
    """Lay the segments of a pack out one after another.

    Args:
        corpus: Where the tokens are.
        segments: Of one pack.
        sequence_length: Positions of the row.
        cu_seqlens_width: Entries of ``cu_seqlens``: at least two more than there are segments.
        pad_token: The token of the tail, as input and as label.

    Raises:
        ValueError: The segments do not fit in the row or in ``cu_seqlens``.
    """
    ends = np.cumsum(segments.lengths)
    filled = int(ends[-1]) if len(ends) else 0
    if filled > sequence_length:
        raise ValueError(f"the pack has {filled} positions in a row of {sequence_length}")
    if cu_seqlens_width < len(ends) + 2:
        raise ValueError(f"{len(ends)} segments do not fit in a cu_seqlens of {cu_seqlens_width}")
    tokens = np.full(sequence_length, pad_token, np.int64)
    labels = np.full(sequence_length, pad_token, np.int64)
    loss_mask = np.zeros(sequence_length, np.float32)
    position_ids = np.empty(sequence_length, np.int64)
    row = 0
    for document, start, length in segments:
        here = slice(row, row + length)
        ids = corpus.tokens(document, start, start + length + 1)
        tokens[here] = ids[:-1]
        labels[here] = ids[1:]
        loss_mask[here] = corpus.loss_mask(document, start + 1, start + length + 1)
        position_ids[here] = np.arange(length)
        row += length
    position_ids[filled:] = np.arange(sequence_length - filled)

    cu_seqlens = np.full(cu_seqlens_width, sequence_length, np.int32)
    cu_seqlens[0] = 0
    cu_seqlens[1 : len(ends) + 1] = ends
    longest = max(int(segments.lengths.max(initial=0)), sequence_length - filled)
    max_seqlen = bucket_max_seqlen(longest, sequence_length)
    return Layout(tokens, labels, loss_mask, position_ids, cu_seqlens, max_seqlen)


def bucket_max_seqlen(longest: int, sequence_length: int) -> int:
    """Round the longest segment up to one of few values.

    Megatron caches rotary embeddings by this number, 32 of them. It takes a number equal to the
    row's length to mean that positions run through the whole row (``rope_utils.py``,
    ``_apply_rotary_pos_emb_thd``), so that is given only where one segment fills the row.
    """
    if longest == sequence_length:
        return sequence_length
    step = -(-sequence_length // _BUCKETS)
    return min(-(-longest // step) * step, sequence_length - 1)
