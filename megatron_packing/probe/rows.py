# SPDX-License-Identifier: Apache-2.0
"""Chooses documents to measure and their neighbors, and lays them out without a mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.errors import InputError
from megatron_packing.probe.result import (
    EARLIER,
    END_TOKENS,
    OWN,
    OWN_START,
    ROW_START,
    Neighbors,
    Variant,
)

_POOL = 1024  # documents that neighbors are chosen from


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """Earlier documents and, last, the measured one."""

    tokens: NDArray[np.int64]
    """Shape ``(positions,)``."""
    position_ids: NDArray[np.int64]
    """Shape ``(positions,)``."""
    targets: NDArray[np.int64]
    """Shape ``(positions,)``: which of ``TARGETS`` a position is for the measured document."""
    labels: NDArray[np.int64]
    """Shape ``(queries,)``: the token after each position of the measured document."""
    trained: NDArray[np.bool_]
    """Shape ``(queries,)``: whether that token is trained."""


class ProbeDocuments:
    """The documents that are measured, and the neighbors of each."""

    def __init__(
        self,
        corpus: TokenDocuments,
        *,
        num_documents: int,
        documents_per_row: int,
        sequence_length: int,
        seed: int,
    ) -> None:
        """Choose documents.

        Args:
            corpus: The corpus that they are from.
            num_documents: How many are measured.
            documents_per_row: The measured document and its neighbors.
            sequence_length: Neither the measured document with its neighbors nor an end token after
                each of them takes more positions.
            seed: Decides which documents are chosen.

        Raises:
            InputError: There are too few documents that are short enough.
        """
        self.corpus = corpus
        self.documents_per_row = documents_per_row
        share = sequence_length // documents_per_row
        lengths = np.asarray(corpus.num_tokens)
        short = np.random.default_rng(seed).permutation(
            np.flatnonzero((lengths >= 2) & (lengths <= share))
        )
        self._pool = short[:_POOL]
        trained = (one for one in short.tolist() if corpus.loss_mask(one, 1).any())
        self.measured = [one for one, _ in zip(trained, range(num_documents), strict=False)]
        if len(self.measured) < num_documents or len(self._pool) < documents_per_row:
            raise InputError(
                f"{corpus.prefix} has {len(self.measured)} documents with trained tokens and up to "
                f"{share} tokens, of which {documents_per_row} fit in a row of {sequence_length}; "
                f"{num_documents} are to be measured: give a longer --sequence-length, fewer "
                f"--documents-per-row or fewer --documents"
            )

    def neighbors(self, measured: int, kind: Neighbors) -> list[int]:
        """Return the documents before a measured one, the same ones at every call."""
        if kind == "none":
            return []
        others = self._pool[self._pool != measured]
        if kind == "random":
            drawn = np.random.default_rng([measured, self.documents_per_row]).permutation(others)
            return [int(one) for one in drawn[: self.documents_per_row - 1]]
        likeness = self._vectors @ self._vector(measured)
        likeness[self._pool == measured] = -1
        return [int(one) for one in self._pool[np.argsort(-likeness)[: self.documents_per_row - 1]]]

    def row(self, measured: int, variant: Variant) -> ProbeRow:
        """Lay out a measured document after its neighbors."""
        parts, targets = [], []
        end = [] if variant.end_token is None else [variant.end_token]
        for neighbor in self.neighbors(measured, variant.neighbors):
            # As in packed rows, the last token of a document is a label but no input.
            tokens = np.asarray(self.corpus.tokens(neighbor), np.int64)[:-1]
            parts.append(np.concatenate([tokens, end]).astype(np.int64))
            targets.append(np.repeat([EARLIER, END_TOKENS], [len(tokens), len(end)]))
        own = np.asarray(self.corpus.tokens(measured), np.int64)
        parts.append(own[:-1])
        targets.append(np.array([OWN_START, *[OWN] * (len(own) - 2)]))
        kinds = np.concatenate(targets)
        if len(parts) > 1:
            kinds[0] = ROW_START
        restarted = np.concatenate([np.arange(len(part)) for part in parts])
        running = np.arange(len(kinds))
        return ProbeRow(
            tokens=np.concatenate(parts),
            position_ids=restarted if variant.positions == "restart" else running,
            targets=kinds,
            labels=own[1:],
            trained=np.asarray(self.corpus.loss_mask(measured, 1)) != 0,
        )

    @cached_property
    def largest_token(self) -> int:
        """The largest token id of the documents that rows can hold."""
        held = {*self._pool.tolist(), *self.measured}
        return max(int(self.corpus.tokens(one).max()) for one in held)

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """The weight of each token id: the rarer, the more (inverse document frequency)."""
        counts = np.zeros(self.largest_token + 1)
        for one in self._pool:
            counts[np.unique(self.corpus.tokens(one))] += 1
        weights: NDArray[np.float64] = np.log(len(self._pool) / np.maximum(counts, 1))
        return weights

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        return np.stack([self._vector(one) for one in self._pool])

    def _vector(self, document: int) -> NDArray[np.float32]:
        """Return the weighted counts of a document's tokens, of length 1."""
        counts = np.bincount(self.corpus.tokens(document), minlength=len(self._weights))
        vector = (np.log1p(counts) * self._weights).astype(np.float32)
        unit: NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-9)
        return unit
