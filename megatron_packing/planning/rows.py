# SPDX-License-Identifier: Apache-2.0
"""The work of rows: how many positions each computes, and how much attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.planning.plan import PackPlan

_BLOCK_SEGMENTS = 1 << 22  # segments measured at a time, which bounds memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows of a trainer, in the order of their packs; int64 arrays of shape ``(num_rows,)``."""

    positions: NDArray[Any]
    """Positions that linear layers compute."""
    squares: NDArray[Any]
    """Sum of the squared lengths of the spans that attend within themselves."""
    real_positions: NDArray[Any]
    """Positions of documents; the others are padding."""
    documents: NDArray[Any]
    """Segments of documents."""

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.positions)

    def take(self, numbers: NDArray[np.integer]) -> Rows:
        """The rows of these numbers; the arrays take the shape of ``numbers``."""
        return Rows(
            positions=self.positions[numbers],
            squares=self.squares[numbers],
            real_positions=self.real_positions[numbers],
            documents=self.documents[numbers],
        )


def rows_of_segments(
    lengths_of: Callable[[slice], NDArray[np.integer]],
    pack_offsets: NDArray[np.int64],
    *,
    sequence_length: int,
    alignment: int = 1,
    masked: bool = True,
) -> Rows:
    """Measure packs.

    Args:
        lengths_of: Returns the positions of some segments, which stand pack after pack.
        pack_offsets: Shape ``(num_packs + 1,)``: where each pack's segments begin.
        sequence_length: Positions in a row.
        alignment: Each segment takes a multiple of this many positions.
        masked: Whether a segment attends to itself alone, and the tail of the row likewise.
            Otherwise every position attends to all before it in the row.
    """
    num_packs = len(pack_offsets) - 1
    filled, real, squares = (np.zeros(num_packs, np.int64) for _ in range(3))
    block = max(1, _BLOCK_SEGMENTS * num_packs // max(1, int(pack_offsets[-1])))
    for first in range(0, num_packs, block):
        offsets = np.asarray(pack_offsets[first : first + block + 1])
        lengths = lengths_of(slice(int(offsets[0]), int(offsets[-1]))).astype(np.int64)
        aligned = -(-lengths // alignment) * alignment
        here = slice(first, first + block)
        bounds = offsets - offsets[0]
        for result, values in ((real, lengths), (filled, aligned), (squares, aligned * aligned)):
            sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
            result[here] = np.diff(sums[bounds])
    positions = np.full(num_packs, sequence_length, np.int64)
    return Rows(
        positions=positions,
        squares=squares + np.square(positions - filled) if masked else np.square(positions),
        real_positions=real,
        documents=np.diff(pack_offsets),
    )


def rows_of_plan(plan: PackPlan, lengths: NDArray[np.integer], *, masked: bool = True) -> Rows:
    """Measure the packs of a plan.

    Args:
        plan: The plan.
        lengths: Shape ``(num_documents,)``: positions of the planned documents.
        masked: See :func:`rows_of_segments`.
    """

    def lengths_of(part: slice) -> NDArray[np.integer]:
        if plan.segment_lengths is not None:
            return plan.segment_lengths[part]
        found: NDArray[np.integer] = lengths[plan.document_ids[part]]
        return found

    return rows_of_segments(
        lengths_of,
        plan.pack_offsets,
        sequence_length=plan.sequence_length,
        alignment=plan.alignment,
        masked=masked,
    )
