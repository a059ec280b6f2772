# SPDX-License-Identifier: Apache-2.0
"""Hashes a sample of a corpus's data, so that a large corpus can be identified quickly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.document_index import DocumentIndex
from megatron_packing.corpus.storage import DataReader

if TYPE_CHECKING:
    from hashlib import _Hash

_SAMPLED_BLOCKS = 256
_BLOCK_BYTES = 1 << 16


def fingerprint_of(
    tokens: DocumentIndex,
    token_data: DataReader,
    masks: tuple[DocumentIndex, DataReader] | None,
    check: Callable[[NDArray[np.uint8], int], None] | None = None,
) -> str:
    """Return the fingerprint of a corpus: see ``Corpus.fingerprint``.

    Args:
        tokens: Its documents.
        token_data: Their tokens.
        masks: The same of the loss mask; None without one.
        check: Called with each block of the loss mask that is read, and its offset in bytes.
    """
    digest = hashlib.sha256()
    update_digest(digest, tokens, token_data)
    if masks is None:
        digest.update(b"no loss mask")
    else:
        update_digest(digest, *masks, check)
    return f"sha256:{digest.hexdigest()}"


def update_digest(
    digest: _Hash,
    index: DocumentIndex,
    data: DataReader,
    check: Callable[[NDArray[np.uint8], int], None] | None = None,
) -> None:
    """Add all lengths to a digest, and all of the data or 256 blocks of 64 KiB of it.

    Args:
        digest: The digest.
        index: The documents.
        data: Their ``.bin`` file.
        check: Called with each block that is read, and its offset in bytes.
    """
    size = index.num_bytes
    digest.update(f"{index.dtype.str} {len(index.lengths)} {size} ".encode())
    digest.update(np.ascontiguousarray(index.lengths))
    for start, length in _sample(size):
        block = data.read(start, start + length)
        digest.update(block)
        if check is not None:
            check(block, start)


def _sample(size: int) -> list[tuple[int, int]]:
    """Return the offsets and lengths of the blocks to read of a file of ``size`` bytes."""
    if size <= _SAMPLED_BLOCKS * _BLOCK_BYTES:
        return [(0, size)]
    starts = [(size - _BLOCK_BYTES) * i // (_SAMPLED_BLOCKS - 1) for i in range(_SAMPLED_BLOCKS)]
    return [(start, _BLOCK_BYTES) for start in starts]
