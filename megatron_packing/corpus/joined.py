"""Several corpora as one, each as often as is asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing.corpus.corpus import Corpus
from megatron_packing.errors import InputError

_CHOICE_SEED = 0  # which documents of a part of an epoch: the same for every plan


@dataclass(frozen=True, slots=True)
class Part:
    """A corpus, or ``count`` documents of it chosen at random."""

    corpus: Corpus
    count: int

    def document(self, index: int) -> int:
        """The document of the corpus that is number ``index`` of the part."""
        size = len(self.corpus)
        if self.count == size:
            return index
        return _core.permute(index, size, _core.epoch_key(_CHOICE_SEED, 0))

    @property
    def num_tokens(self) -> NDArray[Any]:
        """Tokens of the part's documents, shape ``(count,)``."""
        lengths = self.corpus.num_tokens
        if self.count == len(self.corpus):
            return lengths
        return lengths[[self.document(index) for index in range(self.count)]]


class JoinedCorpus:
    """Corpora one after another, with the face of a ``Corpus``.

    A corpus over 2.5 epochs is there twice, and then half of its documents, chosen at random.
    """

    def __init__(self, corpora: list[tuple[Corpus, float]]) -> None:
        """Join corpora, each with its epochs: how often its documents are there, over 0."""
        self.prefix = Path(
            ",".join(
                f"{corpus.prefix}" if epochs == 1 else f"{corpus.prefix}:{epochs:g}"
                for corpus, epochs in corpora
            )
        )
        self._corpora = corpora
        self._parts: list[Part] = []
        for corpus, epochs in corpora:
            if len(corpus) == 0:
                continue
            whole, rest = divmod(round(epochs * len(corpus)), len(corpus))
            self._parts += [Part(corpus, len(corpus))] * whole
            if rest:
                self._parts.append(Part(corpus, rest))
        self._ends = np.cumsum([part.count for part in self._parts])

    @property
    def folder(self) -> Path:
        """Where what is made from it may be kept."""
        return self._corpora[0][0].folder

    def __reduce__(self) -> tuple[type[JoinedCorpus], tuple[list[tuple[Corpus, float]]]]:
        return JoinedCorpus, (self._corpora,)

    def __len__(self) -> int:
        """Documents, repeated ones counted as often as they are there."""
        return int(self._ends[-1])

    @cached_property
    def num_tokens(self) -> NDArray[Any]:
        """Tokens of each document, shape ``(len(self),)``."""
        return np.concatenate([part.num_tokens for part in self._parts])

    @property
    def has_loss_mask(self) -> bool:
        """Whether some tokens may be untrained."""
        return any(corpus.has_loss_mask for corpus, _ in self._corpora)

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
        """A digest of the corpora's fingerprints and epochs."""
        digest = hashlib.sha256()
        for corpus, epochs in self._corpora:
            digest.update(f"{corpus.fingerprint} {epochs!r}\n".encode())
        return f"sha256:{digest.hexdigest()}"

    def _find(self, document: int) -> tuple[Corpus, int]:
        if not 0 <= document < len(self):
            raise IndexError(f"{self.prefix} has documents 0 to {len(self) - 1}, not {document}")
        at = int(np.searchsorted(self._ends, document, side="right"))
        part = self._parts[at]
        return part.corpus, part.document(document - (int(self._ends[at]) - part.count))


def split_entry(entry: str) -> tuple[str, str | None]:
    """The prefix in ``PREFIX`` or ``PREFIX:EPOCHS``, and what stands for the epochs, if any."""
    prefix, colon, epochs = entry.rpartition(":")
    return (prefix, epochs) if colon and "/" not in epochs else (entry, None)


def open_corpus(prefixes: str | Path) -> Corpus | JoinedCorpus:
    """Open ``PREFIX``, or ``PREFIX[:EPOCHS],PREFIX[:EPOCHS],...`` as one corpus.

    Raises:
        InputError: A corpus cannot be opened, or EPOCHS is not a number over 0.
    """
    corpora = []
    for entry in str(prefixes).split(","):
        prefix, text = split_entry(entry)
        if text is None:
            corpora.append((Corpus(entry), 1.0))
            continue
        try:
            epochs = float(text)
        except ValueError:
            epochs = 0.0
        corpus = Corpus(prefix)
        if not 0 < epochs < 1e6 or round(epochs * len(corpus)) == 0:
            raise InputError(
                f"{entry!r} asks for {text!r} epochs of {prefix}, which has {len(corpus):,} "
                f"documents; give a number that makes at least one document, such as {prefix}:2"
            )
        corpora.append((corpus, epochs))
    if len(corpora) == 1 and corpora[0][1] == 1:
        return corpora[0][0]
    return JoinedCorpus(corpora)
