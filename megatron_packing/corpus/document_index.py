# SPDX-License-Identifier: Apache-2.0
"""Where the documents of a ``.bin`` file are, as its ``.idx`` file says."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = tuple[NDArray[np.integer], NDArray[np.int64]]
"""Lengths and offsets of documents."""


class DocumentIndex:
    """The documents of a ``.idx`` file; its columns are mapped when they are first used."""

    def __init__(
        self,
        dtype: np.dtype[Any],
        num_documents: int,
        num_values: int,
        columns: Callable[[], Columns],
        *,
        groups_sequences: bool = False,
    ) -> None:
        """Describe documents.

        Args:
            dtype: Of the values in the ``.bin``.
            num_documents: How many there are.
            num_values: Values of all documents, which fill the ``.bin``.
            columns: Called once, for ``lengths`` and ``offsets``.
            groups_sequences: Whether some document is not one sequence of the ``.idx``.
        """
        self.dtype = dtype
        self.num_documents = num_documents
        self.num_values = num_values
        self.groups_sequences = groups_sequences
        self._read = columns

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Values of each document, shape ``(num_documents,)``: int32, or int64 if one does not fit.

        Memory-mapped if each document is one sequence.
        """
        return self._columns[0]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Start of each document in the ``.bin``, in bytes, shape ``(num_documents,)``."""
        return self._columns[1]

    @property
    def num_bytes(self) -> int:
        """The size of the ``.bin``."""
        return self.num_values * self.dtype.itemsize

    def document_at(self, offset: int) -> int:
        """Return the document that holds the byte at an offset of the ``.bin``."""
        return int(np.searchsorted(self.offsets, offset, side="right")) - 1

    @cached_property
    def _columns(self) -> Columns:
        return self._read()
