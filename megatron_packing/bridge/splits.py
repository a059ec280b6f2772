# SPDX-License-Identifier: Apache-2.0
"""The pack indexes of each split of a Bridge run: one, or several with weights."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import megatron_packing.needs.megatron_core  # noqa: F401

from megatron.core.datasets.utils import get_blend_from_list, normalize

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.ranks import open_index_and_corpus

Blend = str | Path | Sequence[str | Path | float]
"""A pack index; or several, as Megatron's ``--data-path`` takes corpora: ``[0.3, A, 0.7, B]``."""


@dataclass(frozen=True, slots=True)
class Packs:
    """A pack index and the corpus that it was made from."""

    index: PackIndex
    corpus: Corpus | JoinedCorpus


@dataclass(frozen=True, slots=True)
class Split:
    """The documents of a split."""

    parts: tuple[Packs, ...]
    weights: tuple[float, ...]
    """The share of rows that each part gives; together 1."""

    @property
    def indexes(self) -> list[PackIndex]:
        """Of all parts."""
        return [part.index for part in self.parts]

    @property
    def documents_per_row(self) -> float:
        """The mean over the rows that training takes."""
        return sum(
            weight * index.num_documents / len(index)
            for weight, index in zip(self.weights, self.indexes, strict=True)
        )

    def epoch(self, part: int) -> float:
        """Rows of the split in which a part is read once."""
        return len(self.parts[part].index) / self.weights[part]


def open_split(name: str, blend: Blend, corpora: Blend | None = None) -> Split:
    """Open the indexes of a split, on any of many ranks.

    Args:
        name: Of the split, for messages: ``train``, ``validation`` or ``test``.
        blend: The indexes, with or without weights. Without, each row weighs the same.
        corpora: Where the corpora are, one for each index, if neither where they were nor beside
            the indexes.

    Raises:
        InputError: One cannot be opened, or the blend is none.
    """
    paths, weights = _read_blend(name, blend)
    places = [None] * len(paths) if corpora is None else _texts(corpora)
    if len(places) != len(paths):
        raise InputError(
            f"{name}_corpus names {len(places)} corpora, but {name} has {len(paths)} pack indexes; "
            f"give one for each, or leave it out where they are where they were"
        )
    parts = tuple(
        Packs(*open_index_and_corpus(path, place))
        for path, place in zip(paths, places, strict=True)
    )
    if weights is None:
        weights = [float(len(part.index)) for part in parts]
    shares = [1.0] if len(parts) == 1 else [float(share) for share in normalize(weights)]
    return Split(parts, tuple(shares))


def open_splits(
    blends: Mapping[str, Blend | None], corpora: Mapping[str, Blend | None]
) -> dict[str, Split]:
    """Open the splits that there are; see ``open_split``."""
    return {
        name: open_split(name, blend, corpora[name])
        for name, blend in blends.items()
        if blend is not None
    }


def as_setting(blend: Blend | None) -> str | list[str] | None:
    """A blend in types that a recipe in YAML holds."""
    if blend is None:
        return None
    return str(blend) if isinstance(blend, str | os.PathLike) else _texts(blend)


def _texts(blend: Blend) -> list[str]:
    if isinstance(blend, str | os.PathLike):
        return [str(blend)]
    return [str(word) for word in blend]


def _read_blend(name: str, blend: Blend) -> tuple[list[str], list[float] | None]:
    """Paths and weights; by Megatron's own rule where there are several."""
    words = _texts(blend)
    if len(words) == 1:
        return words, None
    try:
        paths, weights = get_blend_from_list(words)
    except (AssertionError, TypeError, ValueError):
        paths, weights = [], None  # of an empty list, or with some weights
    stray = weights is None and any(_is_number(path) and not Path(path).exists() for path in paths)
    if not paths or stray:
        raise InputError(
            f"{name} is {words}, which is no blend of pack indexes; give their paths alone, or a "
            f"weight before each: [0.3, A, 0.7, B]"
        )
    for path, weight in zip(paths, weights or (), strict=False):
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(
                f"{name} gives {path} the weight {weight:g}; a weight is more than 0: leave the "
                f"index out if it should not be read"
            )
    return list(paths), weights


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
