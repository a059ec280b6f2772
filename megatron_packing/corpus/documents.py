# SPDX-License-Identifier: Apache-2.0
"""What planning and rows need of documents, wherever they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Documents(Protocol):
    """What planning needs: the lengths of documents, and a fingerprint of their content."""

    @property
    def prefix(self) -> Path:
        """Where they are, for errors and for the manifest of an index."""

    @property
    def num_tokens(self) -> NDArray[Any]:
        """Tokens of each document, shape ``(len(self),)``."""

    @property
    def fingerprint(self) -> str:
        """Equal documents have equal fingerprints."""

    def __len__(self) -> int:
        """The number of documents."""


class TokenDocuments(Documents, Protocol):
    """Documents with their tokens."""

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return tokens ``start`` to ``stop`` of one document."""

    def loss_mask(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> NDArray[np.uint8]:
        """Return 1 for each of these tokens that is trained (as a label), else 0."""

    def at_epoch(self, epoch: int) -> TokenDocuments:
        """Return the documents that replace these in another epoch, which are never longer."""
