# SPDX-License-Identifier: Apache-2.0
"""Chooses the documents of a fraction of a corpus, other ones in each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError
from megatron_packing.files.kept_array import read_kept, write_kept


class Lengths(Protocol):
    """Tokens of each document."""

    def __len__(self) -> int:
        """The number of documents."""

    def __array__(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        """The tokens of each."""


@dataclass(frozen=True)
class ChangingPart:
    """``count`` of a corpus's ``n`` documents, chosen again in every epoch.

    Documents are sorted by length, those of equal length in a fixed random order. Each epoch takes
    every ``n / count``-th document in this order, and starts one document later than the epoch
    before (systematic sampling). Therefore

    * after any number of epochs E, every document was taken ``E * count / n`` times, rounded up or
      down;
    * the k-th document of an epoch is one of about ``n / count`` neighbors in this order, and epoch
      0 takes the longest of them. So the packs of epoch 0 have room for every epoch. Summed over
      all packs, another epoch leaves less room unused than twice the longest document needs.
    """

    lengths: Lengths
    """Shape ``(n,)``: tokens of each document of the corpus. Read when a document is asked for."""
    count: int
    """Documents in an epoch, more than 0 and fewer than ``n``."""
    kept: Path | None = None
    """The file that may have all documents by length, and the rank by length of each slot."""

    def keep(self) -> InputError | None:
        """Make the file that is to have the orders, if it is missing, or else check it.

        Returns:
            Why it cannot be written; None if it is there.

        Raises:
            InputError: It is damaged.
        """
        assert self.kept is not None
        if self._read_kept(self.kept, checks=True) is None:
            try:
                write_kept(self.kept, self._dtype, (self._sort_documents(), self._draw_ranks()))
            except InputError as error:
                return error
        return None

    def documents(self, slots: NDArray[np.integer], epoch: int) -> NDArray[np.integer]:
        """Return the documents in ``slots`` (0 to ``count - 1``) of the part in an epoch from 0.

        With t = (epoch + 1) * count mod n, an epoch takes the documents of the ranks j with
        (j * count + t) mod n < count. The k-th such j is computed directly.
        """
        size = len(self.lengths)
        shift = (epoch + 1) * self.count % size
        multiples = self._ranks[slots].astype(np.int64) + (shift >= self.count)
        ranks = -((shift - multiples * size) // self.count)
        chosen: NDArray[np.integer] = self._by_length[ranks]
        return chosen

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<i4" if len(self.lengths) <= np.iinfo(np.int32).max else "<i8")

    def _read_kept(self, path: Path, *, checks: bool = False) -> NDArray[np.integer] | None:
        return read_kept(path, self._dtype, len(self.lengths) + self.count, checks=checks)

    @cached_property
    def _orders(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        found = None if self.kept is None else self._read_kept(self.kept)
        if found is None:
            return self._sort_documents(), self._draw_ranks()
        return found[: len(self.lengths)], found[len(self.lengths) :]

    @property
    def _by_length(self) -> NDArray[np.integer]:
        return self._orders[0]

    @property
    def _ranks(self) -> NDArray[np.integer]:
        return self._orders[1]

    def _draw_ranks(self) -> NDArray[np.integer]:
        """The rank by length, among an epoch's documents, of each slot.

        It is random, so that a slot's number does not depend on the length of its documents.
        """
        order = np.argsort(_mix(np.arange(self.count, dtype=np.uint64)), kind="stable")
        return order.astype(np.int32) if self.count <= np.iinfo(np.int32).max else order

    def _sort_documents(self) -> NDArray[np.integer]:
        """All documents, sorted by length."""
        lengths = np.asarray(self.lengths)
        size = len(lengths)
        mixed = _mix(np.arange(size, dtype=np.uint64))
        if lengths.max() < 1 << 31:  # sorting by one key is faster
            mixed >>= np.uint64(32)
            mixed |= lengths.astype(np.uint64) << np.uint64(32)
            order = np.argsort(mixed, kind="stable")
        else:
            order = np.lexsort((mixed, lengths))
        return order.astype(np.int32) if size <= np.iinfo(np.int32).max else order


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection."""
    values = values * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
