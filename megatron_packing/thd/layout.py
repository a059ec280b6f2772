# SPDX-License-Identifier: Apache-2.0
"""Lays a pack out in its row.

A row is its stretches one after another, each followed by pads up to the alignment, then the tail.
A stretch is what attention keeps apart: a segment, or all segments of the pack side by side where
they see each other. Pads belong to the stretch that they follow and the tail to stretches of its
own, so ``cu_seqlens`` covers the row and every length in it is aligned: the one convention that all
versions of Megatron and of Transformer Engine read alike. No pad stands before a real position of
its stretch, so a causal mask keeps pads from every real position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.index.pack_index import Segments

Attention = Literal["document", "pack"]
PositionIds = Literal["restart", "continue"]

ATTENTION: tuple[Attention, ...] = get_args(Attention)
POSITION_IDS: tuple[PositionIds, ...] = get_args(PositionIds)

_BUCKETS = 8


def positions_of(attention: str) -> PositionIds:
    """What position ids do where nobody says: restart with whatever attention keeps apart."""
    return "continue" if attention == "pack" else "restart"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the segments of a pack stand in their row; known from their lengths alone."""

    sequence_length: int
    starts: NDArray[np.int64]
    """Shape ``(num_segments,)``: the first position of each segment in the row."""
    lengths: NDArray[np.int64]
    """Shape ``(num_segments,)``: positions of each segment, without pads."""
    cu_seqlens: NDArray[np.int32]
    """What attention keeps apart: starts of the segments (or one 0 where documents of a pack see
    each other), of the tail's parts, then ``sequence_length`` up to the width asked for."""
    real_lengths: NDArray[np.int32]
    """Shape ``(width - 1,)``: positions without padding between neighbors of ``cu_seqlens``; of
    the tail none."""
    max_seqlen: int
    """At least the longest stretch of ``cu_seqlens``, rounded up to one of a few values."""

    def padding_mask(self) -> NDArray[np.bool_]:
        """Shape ``(sequence_length,)``: True at pads and in the tail."""
        mask = np.ones(self.sequence_length, np.bool_)
        for start, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True):
            mask[start : start + length] = False
        return mask

    def position_ids(self, position_ids: PositionIds = "restart") -> NDArray[np.int64]:
        """Shape ``(sequence_length,)``: from 0 in each segment, or through the whole row."""
        row = np.arange(self.sequence_length)
        if position_ids == "continue":
            return row
        # The tail starts with the first stretch of cu_seqlens that holds nothing real.
        tail = self.sequence_length - int(np.diff(self.cu_seqlens)[self.real_lengths == 0].sum())
        starts = np.append(self.starts, tail)
        counts = np.diff(starts, append=self.sequence_length)
        positions: NDArray[np.int64] = row - np.repeat(starts, counts)
        return positions


@dataclass(frozen=True, slots=True)
class Layout:
    """One row's contents; arrays of shape ``(sequence_length,)``.

    The label at a position is the token after its input, in the same document.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    loss_mask: NDArray[np.uint8]
    """1 where the label is trained; 0 elsewhere, at pads and in the tail."""


def place(
    lengths: NDArray[np.int64],
    sequence_length: int,
    cu_seqlens_width: int,
    *,
    alignment: int = 1,
    attention: Attention = "document",
) -> Placement:
    """Find the place of each segment of a pack.

    Args:
        lengths: Shape ``(num_segments,)``: positions of each.
        sequence_length: Positions of the row, a multiple of ``alignment``.
        cu_seqlens_width: Entries of ``cu_seqlens``: at least two more than there are segments.
            The tail is cut into as many dummy documents as there is room for, as short ones cost
            attention less.
        alignment: Each stretch takes a multiple of this.
        attention: ``document`` keeps segments apart: each is a stretch. Under ``pack`` each sees
            those before it: they are one stretch, without pads between them.

    Raises:
        ValueError: The segments do not fit in the row or in ``cu_seqlens``.
    """
    lengths = np.asarray(lengths, np.int64)
    if sequence_length % alignment:
        raise ValueError(f"the row has {sequence_length} positions, no multiple of {alignment}")
    real = lengths if attention == "document" else lengths.sum(keepdims=True)[: len(lengths)]
    apart = np.cumsum(-(-real // alignment) * alignment)
    filled = int(apart[-1]) if len(apart) else 0
    if filled > sequence_length:
        raise ValueError(f"the pack has {filled} positions in a row of {sequence_length}")
    if cu_seqlens_width < len(lengths) + 2:
        raise ValueError(
            f"{len(lengths)} segments do not fit in a cu_seqlens of {cu_seqlens_width}"
        )
    ends = apart if attention == "document" else np.cumsum(lengths)
    room = cu_seqlens_width - 1 - len(apart)
    units = (sequence_length - filled) // alignment
    part = -(-units // room) * alignment
    tail = np.arange(filled + part, sequence_length, part or 1)

    cu_seqlens = np.full(cu_seqlens_width, sequence_length, np.int32)
    cu_seqlens[0] = 0
    cu_seqlens[1 : len(apart) + 1] = apart
    cu_seqlens[len(apart) + 1 : len(apart) + 1 + len(tail)] = tail
    real_lengths = np.zeros(cu_seqlens_width - 1, np.int32)
    real_lengths[: len(apart)] = real
    return Placement(
        sequence_length=sequence_length,
        starts=np.concatenate([np.zeros(1, np.int64), ends])[: len(ends)],
        lengths=lengths,
        cu_seqlens=cu_seqlens,
        real_lengths=real_lengths,
        max_seqlen=bucket_max_seqlen(int(np.diff(cu_seqlens).max()), sequence_length),
    )


def lay_out(
    corpus: TokenDocuments, segments: Segments, placement: Placement, pad_token: int
) -> Layout:
    """Read the segments of a pack into their places.

    Args:
        corpus: Where the tokens are.
        segments: Of one pack.
        placement: Of their lengths.
        pad_token: The token of pads and of the tail, as input and as label.
    """
    tokens = np.full(placement.sequence_length, pad_token, np.int64)
    labels = np.full(placement.sequence_length, pad_token, np.int64)
    loss_mask = np.zeros(placement.sequence_length, np.uint8)
    for (document, start, length), row in zip(segments, placement.starts.tolist(), strict=True):
        here = slice(row, row + length)
        ids = corpus.tokens(document, start, start + length + 1)
        tokens[here] = ids[:-1]
        labels[here] = ids[1:]
        loss_mask[here] = corpus.loss_mask(document, start + 1, start + length + 1)
    return Layout(tokens, labels, loss_mask)


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
