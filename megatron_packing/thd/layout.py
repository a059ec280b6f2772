# SPDX-License-Identifier: Apache-2.0
"""Lays out a pack in its row.

A row consists of attention spans, each padded up to the alignment, and of the tail. An attention
span is a range of positions that attend only to each other: one segment, or all segments of the
pack if documents attend to those before them. Pads belong to the span before them, and the tail has
spans of its own. So ``cu_seqlens`` covers the whole row and all its lengths are aligned. All
versions of Megatron and Transformer Engine read this convention alike. Pads come last in their
span, so a causal mask hides them from every real position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.counted import counted
from megatron_packing.index.pack_index import Segments

Attention = Literal["document", "pack"]
PositionIds = Literal["restart", "continue"]

ATTENTION: tuple[Attention, ...] = get_args(Attention)
POSITION_IDS: tuple[PositionIds, ...] = get_args(PositionIds)


def positions_of(attention: str) -> PositionIds:
    """Return the default position ids: they restart in each attention span."""
    return "continue" if attention == "pack" else "restart"


@dataclass(frozen=True, slots=True)
class Placement:
    """The positions of a pack's segments in their row; computed from their lengths alone."""

    sequence_length: int
    starts: NDArray[np.int64]
    """Shape ``(num_segments,)``: the first position of each segment in the row."""
    lengths: NDArray[np.int64]
    """Shape ``(num_segments,)``: positions of each segment, without pads."""
    cu_seqlens: NDArray[np.int32]
    """Offsets of the attention spans: the starts of the segments (or a single 0 if documents attend
    to those before them), the starts of the tail's parts, then ``sequence_length`` repeated up to
    the requested width."""
    real_lengths: NDArray[np.int32]
    """Shape ``(width - 1,)``: real positions of each span of ``cu_seqlens``; 0 in the tail."""

    def padding_mask(self) -> NDArray[np.bool_]:
        """Return shape ``(sequence_length,)``: True at pads and in the tail."""
        mask = np.ones(self.sequence_length, np.bool_)
        for start, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True):
            mask[start : start + length] = False
        return mask

    def position_ids(self, position_ids: PositionIds = "restart") -> NDArray[np.int64]:
        """Return shape ``(sequence_length,)``: from 0 in each segment, or through the whole row."""
        row = np.arange(self.sequence_length)
        if position_ids == "continue":
            return row
        # The tail starts with the first span of cu_seqlens without a real position.
        tail = self.sequence_length - int(np.diff(self.cu_seqlens)[self.real_lengths == 0].sum())
        starts = np.append(self.starts, tail)
        counts = np.diff(starts, append=self.sequence_length)
        positions: NDArray[np.int64] = row - np.repeat(starts, counts)
        return positions


@dataclass(frozen=True, slots=True)
class Layout:
    """The contents of one row; arrays of shape ``(sequence_length,)``.

    The label at a position is the token after its input, in the same document.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    loss_mask: NDArray[np.uint8]
    """1 at trained labels; 0 elsewhere, at pads and in the tail."""


def place(
    lengths: NDArray[np.int64],
    sequence_length: int,
    cu_seqlens_width: int,
    *,
    alignment: int = 1,
    attention: Attention = "document",
) -> Placement:
    """Compute the position of each segment of a pack in its row.

    Args:
        lengths: Shape ``(num_segments,)``: positions of each.
        sequence_length: Positions of the row, a multiple of ``alignment``.
        cu_seqlens_width: Entries of ``cu_seqlens``: at least two more than there are segments.
            The tail is cut into as many dummy documents as fit, because attention over short
            documents is cheaper.
        alignment: The length of each span is a multiple of this.
        attention: With ``document`` each segment is a span of its own. With ``pack`` a segment also
            attends to those before it: together they are one span, without pads in between.

    Raises:
        ValueError: The segments do not fit in the row or in ``cu_seqlens``.
    """
    lengths = np.asarray(lengths, np.int64)
    if sequence_length % alignment:
        raise ValueError(
            f"sequence_length is {sequence_length}; give a multiple of the alignment {alignment}"
        )
    real = lengths if attention == "document" else lengths.sum(keepdims=True)[: len(lengths)]
    apart = np.cumsum(-(-real // alignment) * alignment)
    filled = int(apart[-1]) if len(apart) else 0
    if filled > sequence_length:
        raise ValueError(f"the pack needs {filled} positions, but the row has {sequence_length}")
    if cu_seqlens_width < len(lengths) + 2:
        raise ValueError(
            f"cu_seqlens_width is {cu_seqlens_width}; "
            f"{counted(len(lengths), 'segment needs', 'segments need')} at least {len(lengths) + 2}"
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
    )


def lay_out(
    corpus: TokenDocuments, segments: Segments, placement: Placement, pad_token: int
) -> Layout:
    """Read the segments of a pack into their positions in the row.

    Args:
        corpus: The corpus with the tokens.
        segments: The segments of the pack.
        placement: Their positions in the row.
        pad_token: The token id of pads and the tail, as input and as label.
    """
    tokens = np.full(placement.sequence_length, pad_token, np.int64)
    labels = np.full(placement.sequence_length, pad_token, np.int64)
    loss_mask = np.zeros(placement.sequence_length, np.uint8)
    for (document, start, length), offset in zip(segments, placement.starts.tolist(), strict=True):
        here = slice(offset, offset + length)
        ids = corpus.tokens(document, start, start + length + 1)
        tokens[here] = ids[:-1]
        labels[here] = ids[1:]
        loss_mask[here] = corpus.loss_mask(document, start + 1, start + length + 1)
    return Layout(tokens, labels, loss_mask)
