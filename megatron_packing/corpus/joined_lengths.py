# SPDX-License-Identifier: Apache-2.0
"""The lengths of the documents of joined corpora, looked up where they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import Corpus

Locate = Callable[[NDArray[np.integer]], tuple[NDArray[np.integer], NDArray[np.integer]]]


class JoinedLengths:
    """Serves as an array of shape ``(len(self),)``, without memory for each document.

    Take documents by number, by range, or by an array of numbers; ``np.asarray`` makes an array of
    all of them.
    """

    def __init__(self, corpora: Sequence[Corpus], count: int, locate: Locate) -> None:
        """Join lengths.

        Args:
            corpora: Whose they are. Only those that are asked for are mapped.
            count: Documents of the joined corpora.
            locate: Returns the corpus of each document, and its number there.
        """
        self._corpora = corpora
        self._count = count
        self._locate = locate

    def __len__(self) -> int:
        """The number of documents."""
        return self._count

    def __getitem__(self, documents: Any) -> Any:
        """Return the lengths of documents."""
        if isinstance(documents, slice):
            return self._take(np.arange(*documents.indices(self._count)))
        numbers = np.asarray(documents)
        found = self._take(np.atleast_1d(numbers))
        return found[0] if numbers.ndim == 0 else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the lengths of all documents."""
        if copy is False:
            raise ValueError("the lengths of joined corpora are made when they are asked for")
        found = self._take(np.arange(self._count))
        return found if dtype is None else found.astype(dtype, copy=False)

    def tolist(self) -> list[int]:
        """Return the lengths of all documents."""
        values: list[int] = np.asarray(self).tolist()
        return values

    def _take(self, documents: NDArray[np.integer]) -> NDArray[np.integer]:
        numbers, own = self._locate(documents)
        if len(numbers) and (numbers == numbers[0]).all():
            return self._corpora[int(numbers[0])].num_tokens[own]
        here = {number: numbers == number for number in np.unique(numbers).tolist()}
        parts = {number: self._corpora[number].num_tokens[own[at]] for number, at in here.items()}
        found = np.empty(len(documents), np.result_type(np.int32, *parts.values()))
        for number, at in here.items():
            found[at] = parts[number]
        return found
