# SPDX-License-Identifier: Apache-2.0
"""The work of the packs of an index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.index.pack_index import PackIndex
from megatron_packing.planning.rows import Rows, rows_of_segments


def rows_of_index(index: PackIndex, num_tokens: NDArray[Any] | None) -> Rows:
    """Measure packs as they were planned, the tail of a row as one segment.

    In later epochs segments change places with others that take as many positions, so only the
    documents' own positions differ.

    Args:
        index: The pack index.
        num_tokens: Tokens of each document of the corpus; not needed where segments have lengths.
    """

    def lengths_of(part: slice) -> NDArray[np.integer]:
        if index.segment_lengths is not None:
            return np.asarray(index.segment_lengths[part])
        assert num_tokens is not None
        found: NDArray[np.integer] = num_tokens[index.document_ids[part]].astype(np.int64) - 1
        return found

    return rows_of_segments(
        lengths_of,
        index.pack_offsets,
        sequence_length=index.plan.sequence_length,
        alignment=index.plan.alignment,
    )
