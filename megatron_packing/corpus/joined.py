# SPDX-License-Identifier: Apache-2.0
"""Joins several corpora into one, each repeated for a number of epochs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.changing_part import ChangingPart
from megatron_packing.corpus.corpus import Corpus, Trust
from megatron_packing.corpus.indexed_dataset import index_path
from megatron_packing.corpus.joined_lengths import JoinedLengths
from megatron_packing.corpus.loss_mask import LOSS_MASK_SUFFIX
from megatron_packing.corpus.storage import FILES, Storage, corpus_path, is_remote
from megatron_packing.counted import counted
from megatron_packing.errors import InputError

_VIEWS = 2  # where an epoch ends, rows of two epochs are laid out at the same time


class JoinedCorpus:
    """Several corpora, one after another, with the interface of a ``Corpus``.

    With 2.5 epochs, all documents of a corpus are included twice, and half of them once more. That
    half changes in each epoch of training (``ChangingPart``), so each document is read 2.5 times
    per epoch on average. ``num_tokens`` and ``tokens`` are those of epoch 0, for which packs are
    planned. ``at_epoch`` returns other epochs, whose documents are never longer.
    """

    def __init__(self, corpora: list[tuple[Corpus, float]], orders: Path | None = None) -> None:
        """Join corpora.

        Args:
            corpora: Each corpus, and its epochs: how often its documents are included, over 0.
            orders: See ``share_orders``.

        Raises:
            InputError: A corpus is too large for a fraction of an epoch.
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
                raise InputError(
                    f"{corpus.prefix} has {size:,} documents, too many for a fraction "
                    f"of an epoch; give whole epochs of it"
                )
            self._parts += [(number, None)] * whole
            counts += [size] * whole
            if rest:
                self._parts.append((number, ChangingPart(_LengthsOf(corpus), rest)))
                counts.append(rest)
        self._ends = np.cumsum(counts)
        self._orders: Path | None = None
        if orders is not None:
            self.share_orders(orders)

    @property
    def folder(self) -> Path:
        """Folder for files derived from this corpus."""
        return self._corpora[0][0].folder

    @property
    def corpora(self) -> list[Corpus]:
        """The joined corpora, in order."""
        return [corpus for corpus, _ in self._corpora]

    @property
    def changes_each_epoch(self) -> bool:
        """Whether some corpus has a fraction of an epoch."""
        return any(part is not None for _, part in self._parts)

    @property
    def repeats_documents(self) -> bool:
        """Whether some document is included more than once, in one epoch or over several."""
        return any(epochs != 1 for _, epochs in self._corpora)

    def __reduce__(self) -> tuple[type[JoinedCorpus], tuple[Any, ...]]:
        return JoinedCorpus, (self._corpora, self._orders)

    def share_orders(self, folder: Path) -> None:
        """Read from files of a folder how fractions of corpora change, where it has them.

        Otherwise each process sorts the documents of such a corpus when one is asked for.
        """
        self._orders = folder
        for at, (number, part) in enumerate(self._parts):
            if part is not None:
                corpus = self._corpora[number][0]
                identity = f"{corpus.fingerprint} {len(corpus)} {part.count}"
                name = hashlib.sha256(identity.encode()).hexdigest()[:32]
                self._parts[at] = number, replace(part, kept=folder / name)

    def keep_orders(self) -> InputError | None:
        """Make the files of ``share_orders`` that are missing.

        Returns:
            Why one cannot be written; None if all are there.

        Raises:
            InputError: A file is damaged.
        """
        problems = [part.keep() for _, part in self._parts if part is not None]
        return next((problem for problem in problems if problem is not None), None)

    def __len__(self) -> int:
        """The number of documents, each counted as often as it is included."""
        return int(self._ends[-1])

    def at_epoch(self, epoch: int) -> JoinedCorpus:
        """Return this corpus with the documents of another epoch in place of those of epoch 0."""
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
        """Return the number of each document's corpus in ``corpora``, and its number there."""
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
    def num_tokens(self) -> Any:
        """Tokens of each document, shape ``(len(self),)``; see ``JoinedLengths``."""
        return JoinedLengths(self.corpora, len(self), self.locate)

    @property
    def has_loss_mask(self) -> bool:
        """Whether some tokens may be untrained."""
        return any(corpus.has_loss_mask for corpus in self.corpora)

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return tokens ``start`` to ``stop`` of one document, in the dtype of its corpus."""
        corpus, document = self._find(document)
        return corpus.tokens(document, start, stop)

    def loss_mask(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> NDArray[np.uint8]:
        """Return 1 for each of these tokens that is trained (as a label), else 0."""
        corpus, document = self._find(document)
        return corpus.loss_mask(document, start, stop)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the corpora's fingerprints and epochs.

        Earlier releases used the same part in every epoch, which has another fingerprint.
        """
        changing = {number for number, part in self._parts if part is not None}
        digest = hashlib.sha256()
        for number, (corpus, epochs) in enumerate(self._corpora):
            note = " changing part" if number in changing else ""
            digest.update(f"{corpus.fingerprint} {epochs!r}{note}\n".encode())
        return f"sha256:{digest.hexdigest()}"

    def source_of(self, document: int) -> tuple[Corpus, int]:
        """Return the corpus that a document comes from, and its number there."""
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


class _LengthsOf:
    """The lengths of a corpus, which are mapped when they are used."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def __len__(self) -> int:
        return len(self._corpus)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy:
            return np.array(self._corpus.num_tokens, dtype)
        return np.asarray(self._corpus.num_tokens, dtype)


def split_entry(entry: str) -> tuple[str, str | None]:
    """Split ``PREFIX`` or ``PREFIX:EPOCHS`` into the prefix and the text of the epochs or None."""
    prefix, colon, epochs = entry.rpartition(":")
    return (prefix, epochs) if colon and "/" not in epochs else (entry, None)


def has_fraction(prefixes: str) -> bool:
    """Whether ``PREFIX[:EPOCHS],...`` has a fraction of an epoch for some corpus."""
    for entry in prefixes.split(","):
        try:
            if not float(split_entry(entry)[1] or 1).is_integer():
                return True
        except ValueError:  # not a number
            continue
    return False


def open_corpus(
    prefixes: str | Path,
    storage: Storage = FILES,
    trust: Callable[[str], Trust] = lambda _: "nothing",
) -> Corpus | JoinedCorpus:
    """Open ``PREFIX``, or ``PREFIX[:EPOCHS],PREFIX[:EPOCHS],...`` as one corpus.

    Args:
        prefixes: As above.
        storage: Where the files are, and how ``.bin`` files are read.
        trust: What is believed of the corpus PREFIX in place of reading it; see ``Corpus``.

    Raises:
        InputError: A corpus cannot be opened or is the loss mask of another, or EPOCHS is not a
            number over 0.
    """
    corpora = []
    for entry in str(prefixes).split(","):
        prefix, text = split_entry(entry)
        if isinstance(trust(prefix), str):
            _refuse_loss_masks(prefix)
        if text is None:
            corpora.append((Corpus(entry, storage, trust(entry)), 1.0))
            continue
        try:
            epochs = float(text)
        except ValueError:
            epochs = 0.0
        corpus = Corpus(prefix, storage, trust(prefix))
        if not 0 < epochs < 1e6 or round(epochs * len(corpus)) == 0:
            raise InputError(
                f"{entry!r} asks for {text!r} epochs of {prefix}, which has "
                f"{counted(len(corpus), 'document')}; give a number below 1,000,000 that includes "
                f"at least one document, such as {prefix}:2"
            )
        corpora.append((corpus, epochs))
    if len(corpora) == 1 and corpora[0][1] == 1:
        return corpora[0][0]
    return JoinedCorpus(corpora)


def _refuse_loss_masks(prefix: str) -> None:
    """Refuse ``PREFIX_loss_mask``, the loss mask of a corpus."""
    corpus = prefix.removesuffix(LOSS_MASK_SUFFIX)
    if corpus != prefix and not is_remote(prefix) and index_path(Path(corpus)).exists():
        raise InputError(
            f"{prefix} is the loss mask of {corpus}, which is read with it; give {corpus}"
        )


def _write_number(value: float) -> str:
    """Return the shortest text that is parsed as the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
