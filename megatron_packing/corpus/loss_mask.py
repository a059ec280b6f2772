# SPDX-License-Identifier: Apache-2.0
"""The loss mask of a corpus: its location, and the values that it may have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.indexed_dataset import DocumentIndex, data_path
from megatron_packing.errors import InputError

LOSS_MASK_SUFFIX = "_loss_mask"


def loss_mask_prefix(prefix: Path) -> Path:
    """Return ``PREFIX_loss_mask``, the prefix of the loss mask's files."""
    return prefix.with_name(prefix.name + LOSS_MASK_SUFFIX)


def check_mask_values(
    prefix: Path, index: DocumentIndex, block: NDArray[np.uint8], start: int
) -> None:
    """Refuse a block of loss mask data with values other than 0 and 1.

    Args:
        prefix: The corpus.
        index: The index of its loss mask.
        block: The data.
        start: The offset of the block, in bytes.

    Raises:
        InputError: There is another value; the message names its document.
    """
    if len(block) == 0 or block.max() <= 1:
        return
    at = int(np.argmax(block > 1))
    raise bad_mask_value(prefix, index.document_at(start + at), int(block[at]))


def bad_mask_value(prefix: Path, document: int, value: int) -> InputError:
    """Return the error for a loss mask with a value other than 0 and 1."""
    return InputError(
        f"{data_path(loss_mask_prefix(prefix))} has {value} in document {document}; a loss mask "
        f"must be 1 where a token is trained and 0 elsewhere: write it again"
    )
