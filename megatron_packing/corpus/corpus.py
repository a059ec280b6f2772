# SPDX-License-Identifier: Apache-2.0
"""A corpus on disk: the tokens of many documents, and which of them are trained."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.given_path import advise_for_corpus
from megatron_packing.corpus.indexed_dataset import (
    DocumentIndex,
    data_path,
    index_path,
    read_index,
)
from megatron_packing.corpus.record import corpus_record_path as corpus_record_path
from megatron_packing.corpus.record import read_corpus_record
from megatron_packing.corpus.storage import FILES, DataReader, Storage, corpus_path
from megatron_packing.errors import InputError, UnreadableError

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

    def at_epoch(self, epoch: int) -> TokenDocuments:
        """The documents that stand at the places of these in another epoch, never longer."""


class Corpus:
    """Documents of a Megatron ``.bin/.idx`` pair, memory-mapped unless ``storage`` says otherwise.

    Beside it may lie ``PREFIX_loss_mask.bin/.idx`` (uint8, the same lengths): 1 where a token is
    trained, else 0. Without it every token is. Copies of a corpus in other processes open the files
    anew.

    Opening reads the ``.idx`` files and the record and checks all of them. It does not read the
    ``.bin`` files: the fingerprint reads a sample of them, ``corpus.content`` all. A file that is
    cut off while it is mapped ends the process with SIGBUS, as for every memory-mapped file.
    """

    def __init__(self, prefix: str | Path, storage: Storage = FILES) -> None:
        """Open the corpus.

        Args:
            prefix: Of its files.
            storage: Where they are and how the ``.bin`` files are read.

        Raises:
            UnreadableError: A file is missing, or its size is wrong; the loss mask too, where the
                record says that the corpus has one.
            InputError: A file is damaged, or the loss mask or the record is of another corpus.
        """
        self.prefix = corpus_path(prefix)
        self._storage = storage
        if not self.prefix.name:
            raise InputError(
                f"{str(prefix)!r} is not the prefix of a corpus; give the path of its .bin and "
                f".idx files without the ending"
            )
        self._files = storage.local_prefix(self.prefix)
        try:
            self._tokens = read_index(self._files, data_size=storage.data_size(self.prefix))
        except UnreadableError as error:
            advice = advise_for_corpus(self._files)
            if advice is None:
                raise
            raise UnreadableError(f"{index_path(self._files)} does not exist: {advice}") from error
        if self._tokens.dtype.kind == "f":
            raise InputError(
                f"{index_path(self.prefix)} holds {self._tokens.dtype}; tokens must be integers: "
                f"write the corpus again"
            )
        self.record = read_corpus_record(self._files)
        self._check_record()
        self._masks = self._read_masks()

    @property
    def folder(self) -> Path:
        """Where what is made from it may be kept."""
        return self._files.parent

    @property
    def corpora(self) -> list[Corpus]:
        """The corpus itself; a ``JoinedCorpus`` has several."""
        return [self]

    def at_epoch(self, epoch: int) -> Corpus:  # noqa: ARG002  # a JoinedCorpus asks
        """The same: every epoch has all documents."""
        return self

    def locate(
        self, documents: NDArray[np.integer]
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Which of ``corpora`` each document is in, and which of its documents it is."""
        return np.zeros(len(documents), np.int64), documents

    def __reduce__(self) -> tuple[type[Corpus], tuple[str, Storage]]:
        return Corpus, (str(self.prefix), self._storage)

    def __len__(self) -> int:
        """Documents."""
        return len(self._tokens.lengths)

    @property
    def num_tokens(self) -> NDArray[np.integer]:
        """Tokens of each document, shape ``(len(self),)``: int32, or int64 for longer documents.

        Memory-mapped, unless documents are joined from several sequences.
        """
        return self._tokens.lengths

    @property
    def has_loss_mask(self) -> bool:
        """Whether some tokens may be untrained."""
        return self._masks is not None

    @property
    def token_index(self) -> DocumentIndex:
        """Where the tokens of each document are in ``PREFIX.bin``."""
        return self._tokens

    @property
    def mask_index(self) -> DocumentIndex | None:
        """Where the loss mask of each document is in ``PREFIX_loss_mask.bin``, if there is one."""
        return self._masks

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Tokens ``start`` to ``stop`` of one document, in the dtype of the corpus."""
        return self._read(self._token_data, self._tokens, document, start, stop)

    def loss_mask(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> NDArray[np.uint8]:
        """For the same tokens: 1 where the token is trained (as a label), else 0.

        Raises:
            InputError: The file holds another value, which would multiply the loss.
        """
        if self._masks is None:
            stop = int(self.num_tokens[document]) if stop is None else stop
            return np.ones(stop - start, np.uint8)
        mask = self._read(self._mask_data, self._masks, document, start, stop)
        if len(mask) and mask.max() > 1:
            raise bad_mask_value(self.prefix, document, int(mask.max()))
        return mask

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the content: all lengths, and all of the data or 256 blocks of 64 KiB of it.

        Equal for copies of a corpus. A corpus that was tokenized differently has another one; a
        change of a few tokens in place within a corpus of over 16 MiB may go unseen, which
        ``megatron-packing verify --deep`` sees.

        Raises:
            InputError: What was read of the loss mask holds other values than 0 and 1.
        """
        known = self._storage.known_fingerprint(self.prefix)
        if known is not None:
            return known
        digest = hashlib.sha256()
        for index, is_mask in ((self._tokens, False), (self._masks, True)):
            if index is None:
                digest.update(b"no loss mask")
                continue
            data, size = self.open_data(is_mask=is_mask), index.num_bytes
            digest.update(f"{index.dtype.str} {len(index.lengths)} {size} ".encode())
            digest.update(np.ascontiguousarray(index.lengths))
            for start, length in _sample(size):
                block = data.read(start, start + length)
                digest.update(block)
                if is_mask:
                    self._check_mask_block(block, start)
        return f"sha256:{digest.hexdigest()}"

    def _check_mask_block(self, block: NDArray[np.uint8], start: int) -> None:
        """Refuse a part of the loss mask's data, from byte ``start`` on, that is not 0 and 1."""
        if len(block) == 0 or block.max() <= 1 or self._masks is None:
            return
        at = int(np.argmax(block > 1))
        document = int(np.searchsorted(self._masks.offsets, start + at, side="right")) - 1
        raise bad_mask_value(self.prefix, document, int(block[at]))

    def _check_record(self) -> None:
        """Refuse the record of another corpus."""
        if self.record is None:
            return
        counts = (
            ("documents", self.record.num_documents, len(self)),
            ("tokens", self.record.num_tokens, self._tokens.num_values),
        )
        for what, recorded, found in counts:
            if recorded is not None and recorded != found:
                raise InputError(
                    f"{corpus_record_path(self.prefix)} counts {recorded:,} {what}, but "
                    f"{index_path(self.prefix)} has {found:,}; one of them is of another corpus: "
                    f"copy both again, or remove the record"
                )

    def _read_masks(self) -> DocumentIndex | None:
        prefix = loss_mask_prefix(self._files)
        remote_size = self._storage.data_size(loss_mask_prefix(self.prefix))
        paths = (data_path(prefix), index_path(prefix))
        # A link whose target is not mounted does not exist, but says that there is a loss mask.
        is_there = remote_size is not None or any(
            path.exists() or path.is_symlink() for path in paths
        )
        if not is_there:
            if self.record is not None and self.record.needs_loss_mask:
                trained = self.record.num_trained_tokens
                how_many = "" if trained is None else f", of which {trained:,} are trained"
                raise UnreadableError(
                    f"{prefix}.bin and .idx are missing, so every token would be trained, but "
                    f"{corpus_record_path(self.prefix)} says that the corpus has a loss mask for "
                    f"its {self._tokens.num_values:,} tokens{how_many}; copy them beside the "
                    f"corpus, or tokenize it again"
                )
            return None
        masks = read_index(
            prefix,
            missing="copy both files of the loss mask beside the corpus",
            data_size=remote_size,
        )
        if masks.dtype != np.uint8:
            raise InputError(f"{index_path(prefix)} holds {masks.dtype}; loss masks must be uint8")
        if not np.array_equal(masks.lengths, self._tokens.lengths):
            raise InputError(
                f"{index_path(prefix)} does not have the document lengths of "
                f"{index_path(self.prefix)}; the two are of different corpora: write them again"
            )
        return masks

    def open_data(self, *, is_mask: bool = False) -> DataReader:
        """Open the ``.bin`` of the tokens or of the loss mask anew.

        Raises:
            UnreadableError: It is missing, or its size has changed since the corpus was opened.
        """
        index = self._masks if is_mask else self._tokens
        assert index is not None
        prefix = loss_mask_prefix(self.prefix) if is_mask else self.prefix
        return self._storage.open_data(prefix, index.num_bytes)

    @staticmethod
    def _read(
        data: DataReader, index: DocumentIndex, document: int, start: int, stop: int | None
    ) -> NDArray[Any]:
        length = int(index.lengths[document])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise IndexError(f"document {document} has {length} tokens, not {start} to {stop}")
        offset = int(index.offsets[document])
        size = index.dtype.itemsize
        return data.read(offset + start * size, offset + stop * size).view(index.dtype)

    @cached_property
    def _token_data(self) -> DataReader:
        return self.open_data()

    @cached_property
    def _mask_data(self) -> DataReader:
        return self.open_data(is_mask=True)


def bad_mask_value(prefix: Path, document: int, value: int) -> InputError:
    """What is raised for a loss mask of other values than 0 and 1."""
    return InputError(
        f"{data_path(loss_mask_prefix(prefix))} has {value} in document {document}; a loss mask "
        f"must be 1 where a token is trained and 0 elsewhere: write it again"
    )


def _sample(size: int) -> list[tuple[int, int]]:
    """The parts of a file of ``size`` bytes that are read for a fingerprint: starts and lengths."""
    if size <= _SAMPLED_BLOCKS * _BLOCK_BYTES:
        return [(0, size)]
    starts = [(size - _BLOCK_BYTES) * i // (_SAMPLED_BLOCKS - 1) for i in range(_SAMPLED_BLOCKS)]
    return [(start, _BLOCK_BYTES) for start in starts]
