# SPDX-License-Identifier: Apache-2.0
"""A part of a corpus that is another one in each epoch: which documents it holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ChangingPart:
    """``count`` of a corpus's ``n`` documents, chosen anew in every epoch.

    Documents are put in the order of their lengths, those of equal length in a fixed random order.
    Of that order each epoch takes every ``n / count``-th document, beginning one document further
    than the epoch before (systematic sampling). So

    * after any number of epochs E, every document was taken ``E * count / n`` times, rounded down
      or up;
    * the k-th document of an epoch is one of about ``n / count`` neighbors in the order of
      lengths, and the longest of them is taken in epoch 0. A plan for epoch 0 has room for every
      epoch, and in all of its packs together the others leave less room unused than twice the
      longest document takes.
    """

    lengths: NDArray[np.integer]
    """Shape ``(n,)``: tokens of each document of the corpus."""
    count: int
    """Documents of an epoch, over 0 and under ``n``."""

    def documents(self, places: NDArray[np.integer], epoch: int) -> NDArray[np.integer]:
        """The documents at ``places`` (0 to ``count - 1``) of the part in ``epoch`` (from 0 on).

        With t = (epoch + 1) * count mod n, the document of rank j is taken where
        (j * count + t) mod n < count. The k-th such j is computed, not searched for.
        """
        size = len(self.lengths)
        shift = (epoch + 1) * self.count % size
        multiples = self._numbers[places].astype(np.int64) + (shift >= self.count)
        ranks = -((shift - multiples * size) // self.count)
        chosen: NDArray[np.integer] = self._by_length[ranks]
        return chosen

    @cached_property
    def _numbers(self) -> NDArray[np.integer]:
        """Which document of an epoch, in the order of lengths, stands at each place: any of them.

        So no place tells how long its documents are.
        """
        order = np.argsort(_mix(np.arange(self.count, dtype=np.uint64)), kind="stable")
        return order.astype(np.int32) if self.count <= np.iinfo(np.int32).max else order

    @cached_property
    def _by_length(self) -> NDArray[np.integer]:
        """All documents in the order of their lengths."""
        size = len(self.lengths)
        mixed = _mix(np.arange(size, dtype=np.uint64))
        if self.lengths.max() < 1 << 31:  # one key sorts faster than two
            mixed >>= np.uint64(32)
            mixed |= self.lengths.astype(np.uint64) << np.uint64(32)
            order = np.argsort(mixed, kind="stable")
        else:
            order = np.lexsort((mixed, self.lengths))
        return order.astype(np.int32) if size <= np.iinfo(np.int32).max else order


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection."""
    values = values * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
