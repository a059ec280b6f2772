# SPDX-License-Identifier: Apache-2.0
"""Reads all data of a corpus, to check every token and loss mask."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.indexed_dataset import DocumentIndex, data_path
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.corpus.loss_mask import check_mask_values, loss_mask_prefix
from megatron_packing.corpus.record import contradiction
from megatron_packing.errors import InputError

LARGEST_TOKEN = int(np.iinfo(np.int32).max)
_BLOCK_BYTES = 1 << 22

OnRead = Callable[[int], None]
"""Called with the number of bytes read since the last call."""


@dataclass(frozen=True, slots=True)
class TokenContent:
    """What reading all tokens of a corpus finds."""

    largest: int
    """The largest token id, or -1 without tokens."""
    sha256: str


@dataclass(frozen=True, slots=True)
class TrainedContent:
    """What reading the loss masks of one or more corpora finds."""

    counts: NDArray[np.int64]
    """Trained tokens in each of the given ranges, shape ``(num_segments,)``."""
    sha256: list[str | None]
    """The hash of each corpus's loss mask; None without one."""


def read_tokens(corpus: Corpus, on_read: OnRead | None = None) -> TokenContent:
    """Read all tokens of a corpus.

    Raises:
        InputError: A token is negative or exceeds int32, or the record names another largest token.
    """
    digest, index = hashlib.sha256(), corpus.token_index
    largest = -1
    for start, block in _blocks(corpus, on_read):
        digest.update(block)
        tokens = block.view(index.dtype)
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high > LARGEST_TOKEN:
            bad = low if low < 0 else high
            at = start + int(np.argmax(tokens == bad)) * index.dtype.itemsize
            raise InputError(
                f"{data_path(corpus.prefix)} has token {bad} in document {index.document_at(at)}; "
                f"tokens must be 0 to {LARGEST_TOKEN:,}: the corpus is damaged, write it again"
            )
        largest = max(largest, high)
    recorded = corpus.record.largest_token if corpus.record else None
    if recorded is not None and recorded != largest:
        raise contradiction(
            corpus.prefix,
            f"says that the largest token is {recorded}",
            f"{data_path(corpus.prefix)} has {largest}",
        )
    return TokenContent(largest, digest.hexdigest())


def find_largest_token(corpus: Corpus | JoinedCorpus, on_read: OnRead | None = None) -> int:
    """Return the largest token id of a corpus, from its record or by reading all tokens.

    Raises:
        InputError: A token is negative or exceeds int32.
    """
    largest = -1
    for part in corpus.corpora:
        recorded = part.record.largest_token if part.record else None
        largest = max(largest, read_tokens(part, on_read).largest if recorded is None else recorded)
    return largest


def count_trained(
    corpus: Corpus | JoinedCorpus,
    documents: NDArray[np.integer],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    on_read: OnRead | None = None,
) -> TrainedContent:
    """Count the trained labels of segments; reads every loss mask once.

    Args:
        corpus: One or more corpora.
        documents: The document of each segment, shape ``(num_segments,)``.
        starts: The first position of each segment in its document.
        lengths: The positions of each segment. The label of position i is token i + 1.
        on_read: Called with the number of bytes read since the last call.

    Raises:
        InputError: A loss mask has a value other than 0 and 1, or the record has another count of
            trained tokens.
    """
    numbers, own = corpus.locate(documents)
    counts = np.array(lengths, np.int64)  # without a loss mask every label is trained
    hashes: list[str | None] = []
    for number, part in enumerate(corpus.corpora):
        if part.mask_index is None:
            hashes.append(None)
            continue
        here = np.flatnonzero(numbers == number)
        first = np.asarray(part.mask_index.offsets)[own[here]] + starts[here] + 1
        before, digest = _trained_before(
            part, part.mask_index, np.concatenate([first, first + lengths[here]]), on_read
        )
        counts[here] = before[len(here) :] - before[: len(here)]
        hashes.append(digest)
    return TrainedContent(counts, hashes)


def count_trained_tokens(
    corpus: Corpus | JoinedCorpus, on_read: OnRead | None = None
) -> NDArray[np.int64]:
    """Count the trained tokens of each document; reads every loss mask once.

    Raises:
        InputError: As ``count_trained``.
    """
    lengths = np.asarray(corpus.num_tokens).astype(np.int64)
    # The label of position i is token i + 1, so a document's first token is the label of -1.
    before_all = np.full(len(lengths), -1, np.int64)
    return count_trained(corpus, np.arange(len(lengths)), before_all, lengths, on_read).counts


def num_data_bytes(corpus: Corpus | JoinedCorpus, *, tokens: bool, masks: bool) -> int:
    """Return the size of the data of the tokens, the loss masks, or both, in bytes."""
    indexes = [part.token_index for part in corpus.corpora if tokens]
    indexes += [part.mask_index for part in corpus.corpora if masks and part.mask_index]
    return sum(index.num_values * index.dtype.itemsize for index in indexes)


def _trained_before(
    corpus: Corpus, index: DocumentIndex, offsets: NDArray[np.int64], on_read: OnRead | None
) -> tuple[NDArray[np.int64], str]:
    """Count trained tokens before each offset in the loss mask's data; return its hash too."""
    order = np.argsort(offsets, kind="stable")
    offsets = offsets[order]
    found = np.zeros(len(offsets), np.int64)
    digest, trained = hashlib.sha256(), 0
    for start, block in _blocks(corpus, on_read, is_mask=True):
        digest.update(block)
        check_mask_values(corpus.prefix, index, block, start)
        running = np.zeros(len(block) + 1, np.int32)  # a block is small, and int64 is slower
        np.cumsum(block, dtype=np.int32, out=running[1:])
        first = np.searchsorted(offsets, start)
        last = np.searchsorted(offsets, start + len(block), side="right")
        found[first:last] = running[offsets[first:last] - start]
        found[first:last] += trained
        trained += int(running[-1])
    recorded = corpus.record.num_trained_tokens if corpus.record else None
    if recorded is not None and recorded != trained:
        raise contradiction(
            corpus.prefix,
            f"counts {recorded:,} trained tokens",
            f"{data_path(loss_mask_prefix(corpus.prefix))} has {trained:,}",
        )
    unsorted = np.empty_like(found)
    unsorted[order] = found
    return unsorted, digest.hexdigest()


def _blocks(
    corpus: Corpus, on_read: OnRead | None, *, is_mask: bool = False
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the data of the tokens or the loss mask in blocks, each with its offset."""
    index = corpus.mask_index if is_mask else corpus.token_index
    assert index is not None
    data, size = corpus.open_data(is_mask=is_mask), index.num_bytes
    for start in range(0, size, _BLOCK_BYTES):
        block = data.read(start, min(start + _BLOCK_BYTES, size))
        if on_read is not None:
            on_read(len(block))
        yield start, block
