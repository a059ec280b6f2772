# SPDX-License-Identifier: Apache-2.0
"""Opens the pack indexes of each split of a Bridge run: one, or several with weights."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import megatron_packing.needs.megatron_core  # noqa: F401

from megatron.core.datasets.utils import get_blend_from_list, normalize

from megatron_packing.corpus.corpus import Corpus, KnownCorpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.first_rank import is_rank_0, on_every_rank, on_first_rank
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.megatron.blends import check_weight, is_number
from megatron_packing.ranks import (
    open_index_on_every_rank,
    open_source_on_every_rank,
    packed,
    refuse_other_release,
    unpacked,
)
from megatron_packing.thd.layout import Attention
from megatron_packing.thd.row_shape import RowShape

Blend = str | Path | Sequence[str | Path | float]
"""A pack index, or several with weights as in Megatron's ``--data-path``: ``[0.3, A, 0.7, B]``."""


class Packs:
    """A pack index and its corpus, which is opened when it is first asked for."""

    def __init__(self, path: str | Path, corpus: str | Path | None) -> None:
        """Open the index.

        Args:
            path: The index.
            corpus: Where its corpus is; see ``index.source.open_source``.

        Raises:
            InputError: The index cannot be opened.
        """
        self._given = corpus
        self.index = open_index_on_every_rank(path)

    @cached_property
    def corpus(self) -> Corpus | JoinedCorpus:
        """The corpus.

        Raises:
            InputError: It cannot be opened, or is another one than that of the index.
        """
        return open_source_on_every_rank(self.index, self._given)

    def known(self) -> list[Any]:
        """Return what ``adopt`` takes on another rank, as JSON values."""
        corpora = [one.known().as_json() for one in self.corpus.corpora]
        return [self.index.known_digest(), *self.index.seen(), corpora]

    def adopt(self, digest: str, manifest: dict[str, Any], place: list[int], known: Any) -> None:
        """Open what rank 0 opened, or a copy of it.

        Args:
            digest: As the next three, what ``known`` is there.
            manifest: See above.
            place: See above.
            known: See above.

        Raises:
            InputError: This rank does not see it, or sees something else.
        """
        self.index = PackIndex.open_known(self.index.path, digest, (manifest, place))
        corpora = [KnownCorpus.from_json(one, refuse_other_release) for one in known]
        self.corpus = open_source_on_every_rank(self.index, self._given, corpora)


_calls = itertools.count()


@dataclass(frozen=True, slots=True)
class Split:
    """The pack indexes of a split, with their weights."""

    parts: tuple[Packs, ...]
    weights: tuple[float, ...]
    """The share of rows from each part; they sum to 1."""

    @property
    def indexes(self) -> list[PackIndex]:
        """The pack indexes of all parts."""
        return [part.index for part in self.parts]

    @property
    def documents_per_row(self) -> float:
        """The mean number of documents per row, over the rows that training reads."""
        return sum(
            weight * index.num_documents / len(index)
            for weight, index in zip(self.weights, self.indexes, strict=True)
        )

    def epoch(self, part: int) -> float:
        """Return the rows of the split in which a part is read once."""
        return len(self.parts[part].index) / self.weights[part]


def open_split(name: str, blend: Blend, corpora: Blend | None = None) -> Split:
    """Open the indexes of a split; any number of ranks may call this at once.

    Corpora are opened on rank 0. Other ranks open one when it is first asked for; see
    ``open_as_rank_0``.

    Args:
        name: The split's name for messages: ``train``, ``validation`` or ``test``.
        blend: The indexes, with or without weights. Without weights every row weighs the same.
        corpora: The corpora, one for each index, if they moved and are not beside the indexes.

    Raises:
        InputError: An index cannot be opened, or the blend is malformed.
    """
    paths, weights = _read_blend(name, blend)
    prefixes = [None] * len(paths) if corpora is None else _texts(corpora)
    if len(prefixes) != len(paths):
        raise InputError(
            f"{name}_corpus names {counted(len(prefixes), 'corpus', 'corpora')}, but {name} has "
            f"{counted(len(paths), 'pack index', 'pack indexes')}; give one corpus for each index, "
            f"or leave {name}_corpus out if the corpora did not move"
        )
    parts = tuple(Packs(path, prefix) for path, prefix in zip(paths, prefixes, strict=True))
    if is_rank_0():
        for part in parts:
            _ = part.corpus
    if weights is None:
        weights = [float(len(part.index)) for part in parts]
    shares = [1.0] if len(parts) == 1 else [float(share) for share in normalize(weights)]
    return Split(parts, tuple(shares))


def open_splits(
    blends: Mapping[str, Blend | None], corpora: Mapping[str, Blend | None]
) -> dict[str, Split]:
    """Open every split that is given; see ``open_split``."""
    return {
        name: open_split(name, blend, corpora[name])
        for name, blend in blends.items()
        if blend is not None
    }


def open_as_rank_0(splits: Mapping[str, Split]) -> None:
    """Open what rank 0 has opened, on every rank, once torch.distributed is there.

    Every rank must call this, with the splits of the same settings.

    Raises:
        InputError: A rank does not see what rank 0 sees. Every rank gets the sentence.
    """
    parts = [part for split in splits.values() for part in split.parts]
    number = next(_calls)

    def look() -> str:
        PackIndex.check_few(part.index for part in parts)
        return packed([part.known() for part in parts])

    known = on_first_rank(f"open splits {number}", look, "open the packs")

    def adopt() -> None:
        for part, found in zip(parts, unpacked(known), strict=True):
            part.adopt(*found)

    work = (lambda: None) if is_rank_0() else adopt
    on_every_rank(f"see splits {number}", work, "open the packs")


def shape_of(splits: Mapping[str, Split], attention: Attention) -> RowShape:
    """Return the shape of all rows of a run."""
    indexes = [index for split in splits.values() for index in split.indexes]
    return RowShape.of(indexes, attention)


def as_setting(blend: Blend | None) -> str | list[str] | None:
    """Convert a blend to types that a recipe in YAML can hold."""
    if blend is None:
        return None
    return str(blend) if isinstance(blend, str | os.PathLike) else _texts(blend)


def _texts(blend: Blend) -> list[str]:
    if isinstance(blend, str | os.PathLike):
        return [str(blend)]
    return [str(word) for word in blend]


def _read_blend(name: str, blend: Blend) -> tuple[list[str], list[float] | None]:
    """Return paths and weights; several are parsed by Megatron's own rule."""
    words = _texts(blend)
    if len(words) == 1:
        return words, None
    try:
        paths, weights = get_blend_from_list(words)
    except (AssertionError, TypeError, ValueError):
        paths, weights = [], None  # an empty list, or weights for only some indexes
    stray = weights is None and any(is_number(path) and not Path(path).exists() for path in paths)
    if not paths or stray:
        raise InputError(
            f"{name} is {words}, which is not a blend of pack indexes; give only paths, or a "
            f"weight before each path: [0.3, A, 0.7, B]"
        )
    for path, weight in zip(paths, weights or (), strict=False):
        check_weight(name, path, weight, "index")
    return list(paths), weights
