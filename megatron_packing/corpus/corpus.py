"""A corpus on disk: the tokens of many documents, and which of them are trained."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.indexed_dataset import SequenceIndex, data_path, index_path, read_index
from megatron_packing.corpus.record import corpus_record_path as corpus_record_path
from megatron_packing.corpus.record import read_corpus_record
from megatron_packing.errors import InputError

LOSS_MASK_SUFFIX = "_loss_mask"
_SAMPLED_BLOCKS = 256
_BLOCK_BYTES = 1 << 16


def loss_mask_prefix(prefix: Path) -> Path:
    """``PREFIX_loss_mask``: the corpus of loss masks that lies beside ``PREFIX``."""
    return prefix.with_name(prefix.name + LOSS_MASK_SUFFIX)


def recorded_tokenizer(prefix: Path) -> str | None:
    """The tokenizer that a corpus says it was made with, if it does."""
    record = read_corpus_record(prefix)
    return None if record is None else record.tokenizer


class Documents(Protocol):
    """What a plan is made from: how long documents are, and which content they are of."""

    @property
    def prefix(self) -> Path:
        """Where they are, for messages and the index's manifest."""

    @property
    def num_tokens(self) -> NDArray[Any]:
        """Tokens of each document, shape ``(len(self),)``."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal documents."""

    def __len__(self) -> int:
        """Documents."""


class TokenDocuments(Documents, Protocol):
    """Documents whose tokens can be had."""

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Tokens ``start`` to ``stop`` of one document."""

    def loss_mask(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> NDArray[np.uint8]:
        """For the same tokens: 1 where the token is trained (as a label), else 0."""


class Corpus:
    """Documents of a Megatron ``.bin/.idx`` pair, memory-mapped.

    Beside it may lie ``PREFIX_loss_mask.bin/.idx`` (uint8, the same lengths): 1 where a token is
    trained. Without it every token is. Copies of a corpus in other processes open the files anew.
    """

    def __init__(self, prefix: str | Path) -> None:
        """Open the corpus.

        Raises:
            InputError: A file is missing or damaged, or the loss masks are not those of the tokens.
        """
        self.prefix = Path(prefix)
        self._tokens = read_index(self.prefix)
        masks = loss_mask_prefix(self.prefix)
        has_masks = index_path(masks).exists() or data_path(masks).exists()
        self._masks = read_index(masks) if has_masks else None
        if self._masks is not None:
            if self._masks.dtype != np.uint8:
                raise InputError(
                    f"{index_path(masks)} holds {self._masks.dtype}; loss masks must be uint8"
                )
            if not np.array_equal(self._masks.lengths, self._tokens.lengths):
                raise InputError(
                    f"{index_path(masks)} does not have the document lengths of "
                    f"{index_path(self.prefix)}; the two are of different corpora: write them again"
                )

    @property
    def folder(self) -> Path:
        """Where what is made from it may be kept."""
        return self.prefix.parent

    def __reduce__(self) -> tuple[type[Corpus], tuple[str]]:
        return Corpus, (str(self.prefix),)

    def __len__(self) -> int:
        """Documents."""
        return len(self._tokens.lengths)

    @property
    def num_tokens(self) -> NDArray[np.int32]:
        """Tokens of each document, shape ``(len(self),)``, memory-mapped."""
        return self._tokens.lengths

    @property
    def has_loss_mask(self) -> bool:
        """Whether some tokens may be untrained."""
        return self._masks is not None

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Tokens ``start`` to ``stop`` of one document, in the dtype of the corpus."""
        return self._read(self._token_data, self._tokens, document, start, stop)

    def loss_mask(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> NDArray[np.uint8]:
        """For the same tokens: 1 where the token is trained (as a label), else 0."""
        if self._masks is None:
            stop = int(self.num_tokens[document]) if stop is None else stop
            return np.ones(stop - start, np.uint8)
        return self._read(self._mask_data, self._masks, document, start, stop)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the content: all lengths, and all of the data or 256 blocks of 64 KiB of it.

        Equal for copies of a corpus. A corpus that was tokenised differently has another one; a
        change of a few tokens in place within a corpus of over 16 MiB may go unseen.
        """
        digest = hashlib.sha256()
        for prefix, index in (
            (self.prefix, self._tokens),
            (loss_mask_prefix(self.prefix), self._masks),
        ):
            if index is None:
                digest.update(b"no loss mask")
                continue
            size = data_path(prefix).stat().st_size
            digest.update(f"{index.dtype.str} {len(index.lengths)} {size} ".encode())
            digest.update(index.lengths)
            with data_path(prefix).open("rb") as file:
                if size <= _SAMPLED_BLOCKS * _BLOCK_BYTES:
                    digest.update(file.read())
                    continue
                for block in range(_SAMPLED_BLOCKS):
                    file.seek((size - _BLOCK_BYTES) * block // (_SAMPLED_BLOCKS - 1))
                    digest.update(file.read(_BLOCK_BYTES))
        return f"sha256:{digest.hexdigest()}"

    @staticmethod
    def _read(
        data: NDArray[np.uint8], index: SequenceIndex, document: int, start: int, stop: int | None
    ) -> NDArray[Any]:
        length = int(index.lengths[document])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise IndexError(f"document {document} has {length} tokens, not {start} to {stop}")
        offset = int(index.offsets[document])
        size = index.dtype.itemsize
        return data[offset + start * size : offset + stop * size].view(index.dtype)

    @cached_property
    def _token_data(self) -> NDArray[np.uint8]:
        return np.memmap(data_path(self.prefix), np.uint8, "r")

    @cached_property
    def _mask_data(self) -> NDArray[np.uint8]:
        return np.memmap(data_path(loss_mask_prefix(self.prefix)), np.uint8, "r")
