# SPDX-License-Identifier: Apache-2.0
"""Which documents of a corpus can be packed, and the refusal of those that cannot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.counted import counted
from megatron_packing.errors import InputError, SettingError, doubled_braces
from megatron_packing.planning.settings import Overlong


def packable_lengths(
    num_tokens: NDArray[Any], source: Path | str
) -> tuple[NDArray[np.integer], NDArray[np.int64] | None]:
    """The documents that have positions to pack: those of two or more tokens.

    Args:
        num_tokens: Tokens of each document, shape ``(num_documents,)``.
        source: What holds the documents, for messages.

    Returns:
        The positions of each such document, and its number; None for the numbers if all documents
        are packable.

    Raises:
        InputError: No document is.
    """
    lengths = np.asarray(num_tokens) - 1
    if lengths.min() > 0:
        return lengths, None
    kept = np.flatnonzero(lengths > 0)
    if len(kept) == 0:
        raise InputError(
            f"{source} has no document of two or more tokens among {len(lengths):,}; there is "
            f"nothing to pack"
        )
    return lengths[kept], kept


def refuse_overlong(
    lengths: NDArray[Any],
    numbers: NDArray[np.int64] | None,
    sequence_length: int,
    source: Path | str,
    first_document: int = 0,
) -> None:
    """Refuse documents that are longer than a row.

    Args:
        lengths: Positions of each document, as ``packable_lengths`` gives them.
        numbers: Their numbers, as it gives them too.
        sequence_length: Positions in a row.
        source: What holds the documents, for messages.
        first_document: The document whose number is 0 here.

    Raises:
        SettingError: There are some. Names the first one, counts them, and says what can be done.
    """
    over = np.flatnonzero(lengths > sequence_length)
    if len(over) == 0:
        return
    first = int(over[0])
    document = first_document + (first if numbers is None else int(numbers[first]))
    raise SettingError(
        f"{doubled_braces(source)} has {counted(len(over), 'document')} longer than the sequence "
        f"length {sequence_length} (document {document}, counted from 0, has "
        f"{int(lengths[first]):,} positions, the longest {int(lengths.max()):,}); choose a longer "
        f"{{sequence_length}}, or choose with {{overlong}} drop, truncate or split what happens to "
        f"them"
    )


def all_dropped(sequence_length: int, source: Path | str) -> SettingError:
    """The error of a plan that drops every document."""
    return SettingError(
        f"every document of {doubled_braces(source)} is longer than the sequence length "
        f"{sequence_length} and would be dropped; choose a longer {{sequence_length}}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedLengths:
    """Documents as every strategy is to pack them, and what was left out for it."""

    packable: NDArray[np.integer]
    """Positions of each document of two or more tokens, as it is."""
    overlong: Overlong
    """What a strategy is still to do with documents that are longer than a row."""
    lengths: NDArray[np.integer]
    """Positions of each document. Some are longer than a row only where they are to be split."""
    num_documents_dropped: int
    num_documents_truncated: int
    num_documents_empty: int
    """Documents of fewer than 2 tokens."""
    num_positions_lost: int
    """Positions of dropped documents and of truncated ends."""

    @property
    def num_positions(self) -> int:
        """Positions of all documents that are packed."""
        return int(self.lengths.sum(dtype=np.int64))


def fit_lengths(
    num_tokens: NDArray[Any], source: Path | str, sequence_length: int, overlong: Overlong
) -> FittedLengths:
    """Drop or truncate what is longer than a row, so that all strategies pack the same positions.

    Strategies that cut documents know no dropping and truncating themselves.

    Args:
        num_tokens: Tokens of each document, shape ``(num_documents,)``.
        source: What holds the documents, for messages.
        sequence_length: Positions in a row.
        overlong: What happens to longer documents.

    Raises:
        InputError: No document has positions.
        SettingError: A document is longer than a row and nothing says what happens to it, or all
            documents would be dropped.
    """
    kept, numbers = packable_lengths(num_tokens, source)
    if overlong == "error":
        refuse_overlong(kept, numbers, sequence_length, source)
    lengths, over = kept, kept > sequence_length
    count = int(np.count_nonzero(over))
    if overlong == "truncate":
        lengths = np.minimum(kept, sequence_length)
    elif overlong == "drop" and count:
        if count == len(kept):
            raise all_dropped(sequence_length, source)
        lengths = kept[~over]
    return FittedLengths(
        packable=kept,
        overlong="split" if overlong == "split" else "error",
        lengths=lengths,
        num_documents_dropped=count if overlong == "drop" else 0,
        num_documents_truncated=count if overlong == "truncate" else 0,
        num_documents_empty=len(num_tokens) - len(kept),
        num_positions_lost=int(kept.sum(dtype=np.int64)) - int(lengths.sum(dtype=np.int64)),
    )
