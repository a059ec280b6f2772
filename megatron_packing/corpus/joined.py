# SPDX-License-Identifier: Apache-2.0
"""Several corpora as one, each as often as is asked for."""

from __future__ import annotations

import hashlib
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.changing_part import ChangingPart
from megatron_packing.corpus.corpus import LOSS_MASK_SUFFIX, Corpus
from megatron_packing.corpus.indexed_dataset import index_path
from megatron_packing.corpus.storage import FILES, Storage, corpus_path, is_remote
from megatron_packing.errors import InputError

_VIEWS = 2  # rows of two epochs are laid out at one time where one epoch ends


class JoinedCorpus:
    """Corpora one after another, with the face of a ``Corpus``.

    A corpus over 2.5 epochs is there twice, and then half of its documents: other ones in each
    epoch of training, so that each is read 2.5 times an epoch on average (``ChangingPart``).
    ``num_tokens`` and ``tokens`` are those of epoch 0, for which packs are planned; ``at_epoch``
    gives the others, whose documents are never longer.
    """

    def __init__(self, corpora: list[tuple[Corpus, float]]) -> None:
        """Join corpora, each with its epochs: how often its documents are there, over 0.

        Raises:
            InputError: They hold no document.
        """
        self.prefix = corpus_path(
            ",".join(
                f"{corpus.prefix}" if epochs == 1 else f"{corpus.prefix}:{_write_number(epochs)}"
                for corpus, epochs in corpora
            )
        )
        self._corpora = corpora
        self._epoch = 0
        self._views: dict[int, JoinedCorpus] = {}
        self._parts: list[tuple[int, ChangingPart | None]] = []  # None: the whole corpus
        counts: list[int] = []
        for number, (corpus, epochs) in enumerate(corpora):
            size = len(corpus)
            whole, rest = divmod(round(epochs * size), size)
            if rest * size >= 1 << 63:
                raise InputError(f"{corpus.prefix} has {size:,} documents; give whole epochs of it")
            self._parts += [(number, None)] * whole
            counts += [size] * whole
            if rest:
                self._parts.append((number, ChangingPart(corpus.num_tokens, rest)))
                counts.append(rest)
        self._ends = np.cumsum(counts)

    @property
    def folder(self) -> Path:
        """Where what is made from it may be kept."""
        return self._corpora[0][0].folder

    @property
    def corpora(self) -> list[Corpus]:
        """What is joined, in order."""
        return [corpus for corpus, _ in self._corpora]

    @property
    def changes_each_epoch(self) -> bool:
        """Whether some corpus is there over a fraction of an epoch."""
        return any(part is not None for _, part in self._parts)

    @property
    def repeats_documents(self) -> bool:
        """Whether a document is there more than once, in one epoch or in several."""
        return any(epochs != 1 for _, epochs in self._corpora)

    def __reduce__(self) -> tuple[type[JoinedCorpus], tuple[list[tuple[Corpus, float]]]]:
        return JoinedCorpus, (self._corpora,)

    def __len__(self) -> int:
        """Documents, repeated ones counted as often as they are there."""
        return int(self._ends[-1])

    def at_epoch(self, epoch: int) -> JoinedCorpus:
        """The same corpus with the documents of another epoch at the places of those of epoch 0."""
        if epoch == self._epoch or not self.changes_each_epoch:
            return self
        if epoch not in self._views:
            view = copy(self)
            view.__dict__.pop("num_tokens", None)
            view._epoch, view._views = epoch, {}
            while len(self._views) >= _VIEWS:
                del self._views[min(self._views)]
            self._views[epoch] = view
        return self._views[epoch]

    def locate(
        self, documents: NDArray[np.integer]
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Which of ``corpora`` each document is in, and which of its documents it is."""
        documents = np.asarray(documents, np.int64)
        at = np.searchsorted(self._ends, documents, side="right")
        own = documents - np.concatenate([[0], self._ends])[at]
        for number in np.unique(at).tolist():
            part = self._parts[number][1]
            if part is not None:
                here = at == number
                own[here] = part.documents(own[here], self._epoch)
        return np.array([number for number, _ in self._parts])[at], own

    @cached_property
    def num_tokens(self) -> NDArray[Any]:
        """Tokens of each document, shape ``(len(self),)``."""
        pieces = []
        for (number, part), count in zip(
            self._parts, np.diff(self._ends, prepend=0).tolist(), strict=True
        ):
            lengths = self._corpora[number][0].num_tokens
            if part is not None:
                lengths = lengths[part.documents(np.arange(count), self._epoch)]
            pieces.append(lengths)
        return np.concatenate(pieces)

    @property
    def has_loss_mask(self) -> bool:
        """Whether some tokens may be untrained."""
        return any(corpus.has_loss_mask for corpus in self.corpora)

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Tokens ``start`` to ``stop`` of one document, in the dtype of its corpus."""
        corpus, document = self._find(document)
        return corpus.tokens(document, start, stop)

    def loss_mask(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> NDArray[np.uint8]:
        """For the same tokens: 1 where the token is trained (as a label), else 0."""
        corpus, document = self._find(document)
        return corpus.loss_mask(document, start, stop)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the corpora's fingerprints and epochs.

        A part that changes has another one than the fixed part that earlier releases took.
        """
        changing = {number for number, part in self._parts if part is not None}
        digest = hashlib.sha256()
        for number, (corpus, epochs) in enumerate(self._corpora):
            note = " changing part" if number in changing else ""
            digest.update(f"{corpus.fingerprint} {epochs!r}{note}\n".encode())
        return f"sha256:{digest.hexdigest()}"

    def source_of(self, document: int) -> tuple[Corpus, int]:
        """The corpus that a document comes from, and its number there."""
        return self._find(document)

    def _find(self, document: int) -> tuple[Corpus, int]:
        if not 0 <= document < len(self):
            raise IndexError(f"{self.prefix} has documents 0 to {len(self) - 1}, not {document}")
        at = int(np.searchsorted(self._ends, document, side="right"))
        number, part = self._parts[at]
        own = document - (int(self._ends[at - 1]) if at else 0)
        if part is not None:
            own = int(part.documents(np.array([own]), self._epoch)[0])
        return self._corpora[number][0], own


def split_entry(entry: str) -> tuple[str, str | None]:
    """The prefix in ``PREFIX`` or ``PREFIX:EPOCHS``, and what stands for the epochs, if any."""
    prefix, colon, epochs = entry.rpartition(":")
    return (prefix, epochs) if colon and "/" not in epochs else (entry, None)


def has_fraction(prefixes: str) -> bool:
    """Whether ``PREFIX[:EPOCHS],...`` asks for a fraction of an epoch of some corpus."""
    for entry in prefixes.split(","):
        try:
            if not float(split_entry(entry)[1] or 1).is_integer():
                return True
        except ValueError:  # no number
            continue
    return False


def open_corpus(prefixes: str | Path, storage: Storage = FILES) -> Corpus | JoinedCorpus:
    """Open ``PREFIX``, or ``PREFIX[:EPOCHS],PREFIX[:EPOCHS],...`` as one corpus.

    Args:
        prefixes: As above.
        storage: Where the files are and how the ``.bin`` files are read.

    Raises:
        InputError: A corpus cannot be opened or holds the loss masks of another, or EPOCHS is not
            a number over 0.
    """
    corpora = []
    for entry in str(prefixes).split(","):
        prefix, text = split_entry(entry)
        _refuse_loss_masks(prefix)
        if text is None:
            corpora.append((Corpus(entry, storage), 1.0))
            continue
        try:
            epochs = float(text)
        except ValueError:
            epochs = 0.0
        corpus = Corpus(prefix, storage)
        if not 0 < epochs < 1e6 or round(epochs * len(corpus)) == 0:
            raise InputError(
                f"{entry!r} asks for {text!r} epochs of {prefix}, which has {len(corpus):,} "
                f"documents; give a number that makes at least one document, such as {prefix}:2"
            )
        corpora.append((corpus, epochs))
    if len(corpora) == 1 and corpora[0][1] == 1:
        return corpora[0][0]
    return JoinedCorpus(corpora)


def _refuse_loss_masks(prefix: str) -> None:
    """Refuse the loss masks of a corpus in its place: ``PREFIX_loss_mask``."""
    corpus = prefix.removesuffix(LOSS_MASK_SUFFIX)
    if corpus != prefix and not is_remote(prefix) and index_path(Path(corpus)).exists():
        raise InputError(
            f"{prefix} holds the loss masks of {corpus}, which are read with it; give {corpus}"
        )


def _write_number(value: float) -> str:
    """The shortest text that is read as the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
