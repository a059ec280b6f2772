# SPDX-License-Identifier: Apache-2.0
"""What a pack index says of its corpus's content: tokenizer, largest token, what is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.content import (
    OnRead,
    count_trained,
    find_largest_token,
    num_data_bytes,
    read_tokens,
)
from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What the labels of an index's packs are trained for."""

    num_labels: int
    """Trained labels in all packs."""
    num_documents_untrained: int
    """Documents in the packs of which no label is trained."""
    num_packs_untrained: int
    """Packs of which no label is trained; empty ones are among them."""
    mask_sha256: list[str | None]
    """Of each corpus's loss mask; None where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """What is known of the tokens of a corpus."""

    tokenizer_sha256: str | None
    largest: int
    sha256: list[str] | None
    """Of each corpus's tokens; None where they were not read for it."""


def find_tokens(
    corpus: Corpus | JoinedCorpus, *, read_all: bool, on_read: OnRead | None = None
) -> Tokens:
    """Say what the tokens of a corpus are.

    Args:
        corpus: One or several.
        read_all: Read all tokens and hash them. Otherwise they are read only where a corpus's
            record does not say which token is the largest.
        on_read: Called with how many bytes more were read.

    Raises:
        InputError: A token is negative or beyond int32, or the record says another largest token.
    """
    known = {part.record.tokenizer_sha256 if part.record else None for part in corpus.corpora}
    tokenizer = known.pop() if len(known) == 1 else None
    if not read_all:
        largest = find_largest_token(corpus, on_read)
        return Tokens(tokenizer_sha256=tokenizer, largest=largest, sha256=None)
    contents = [read_tokens(part, on_read) for part in corpus.corpora]
    return Tokens(
        tokenizer_sha256=tokenizer,
        largest=max(content.largest for content in contents),
        sha256=[content.sha256 for content in contents],
    )


def find_trained(
    corpus: Corpus | JoinedCorpus,
    pack_offsets: NDArray[np.int64],
    documents: NDArray[np.integer],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    on_read: OnRead | None = None,
) -> Trained:
    """Count what the packs of an index train; reads all loss masks.

    Args:
        corpus: Of the index.
        pack_offsets: Shape ``(num_packs + 1,)``: where each pack's segments begin.
        documents: Shape ``(num_segments,)``, as are the others: the document of each segment.
        starts: Its first position.
        lengths: Its positions.
        on_read: Called with how many bytes more were read.

    Raises:
        InputError: A loss mask holds another value than 0 and 1, or not as many as the record says.
    """
    content = count_trained(corpus, documents, starts, lengths, on_read)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(content.counts)])
    per_pack = before[pack_offsets[1:]] - before[pack_offsets[:-1]]
    first = int(documents.min())
    is_there = np.zeros(int(documents.max()) - first + 1, bool)
    is_trained = np.zeros_like(is_there)
    is_there[documents - first] = True
    is_trained[documents[content.counts > 0] - first] = True
    return Trained(
        num_labels=int(before[-1]),
        num_documents_untrained=int(np.count_nonzero(is_there & ~is_trained)),
        num_packs_untrained=int(np.count_nonzero(per_pack == 0)),
        mask_sha256=content.sha256,
    )


def list_hashes(tokens: list[str], masks: list[str | None]) -> tuple[str, ...]:
    """The hashes of all data files: of each corpus its tokens, then its loss mask, if any."""
    pairs = zip(tokens, masks, strict=True)
    return tuple(value for pair in pairs for value in pair if value is not None)


def share_read(
    corpus: Corpus | JoinedCorpus,
    *,
    tokens: bool,
    progress: Callable[[float], None] | None,
) -> OnRead | None:
    """Turn counts of bytes into the share of the tokens and loss masks that is read."""
    if progress is None:
        return None
    total = max(1, num_data_bytes(corpus, tokens=tokens, masks=True))
    done = 0

    def on_read(count: int) -> None:
        nonlocal done
        done += count
        progress(min(1.0, done / total))

    return on_read
