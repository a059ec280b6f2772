# SPDX-License-Identifier: Apache-2.0
"""The result of encoding a batch of records."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that was not used."""

    number: int
    """Its line, or its number in the file, from 1."""
    kind: str
    """A short reason, which counts of rejects use."""
    reason: str
    """What is wrong with the record."""


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The documents of a batch, and the records that were not used."""

    tokens: NDArray[Any]
    """Shape ``(lengths.sum(),)``, in the dtype of the corpus."""
    loss_mask: NDArray[np.uint8]
    """Same shape: 1 for trained tokens."""
    lengths: NDArray[np.int32]
    """Shape ``(num_documents,)``: tokens of each document."""
    num_trained_tokens: int
    schemas: Counter[str]
    """Number of documents of each schema."""
    num_with_special_tokens: int
    """Documents with the text of special tokens in their own texts, which become special tokens."""
    rejects: list[Reject]
    notes: Counter[str] = field(default_factory=Counter)
    """Number of documents for each note. A note is a phrase, or a phrase, a colon and a detail
    (``record field not read: id``). Reports combine notes with the same phrase."""
    num_unmarked_answers: int = 0
    """Answers that their records mark as untrained."""
    matched_mappings: frozenset[str] = frozenset()
    """The mappings of fields and roles that matched in this batch or an earlier one."""
    first_records: dict[str, int] = field(default_factory=dict)
    """For each schema and note, the number of the first document's record."""
