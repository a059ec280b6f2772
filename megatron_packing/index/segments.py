# SPDX-License-Identifier: Apache-2.0
"""The segments of a pack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of one pack, in the order of the row; arrays of shape ``(num_segments,)``."""

    document_ids: NDArray[np.integer]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def within(self, num_tokens: NDArray[Any]) -> Segments:
        """The same without positions that their documents do not have.

        Args:
            num_tokens: Tokens of each document, perhaps fewer than were planned.
        """
        there = num_tokens[self.document_ids].astype(np.int64) - 1 - self.starts
        lengths = np.minimum(self.lengths, there)
        kept = lengths > 0
        return Segments(self.document_ids[kept], self.starts[kept], lengths[kept])

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Document, first position and positions of each segment."""
        columns = (self.document_ids, self.starts, self.lengths)
        return zip(*(column.tolist() for column in columns), strict=True)
