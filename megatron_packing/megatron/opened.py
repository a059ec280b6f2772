# SPDX-License-Identifier: Apache-2.0
"""The corpora and pack indexes of a run, each opened once, and how rank 0 hands them on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from megatron_packing.corpus.corpus import Corpus, KnownCorpus, Trust
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus
from megatron_packing.corpus.storage import corpus_path, is_remote
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.at_once import try_at_once
from megatron_packing.files.whole import open_patiently
from megatron_packing.first_rank import say
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.megatron.object_storage import MegatronStorage
from megatron_packing.ranks import (
    STALE_SECONDS,
    open_corpus_on_every_rank,
    packed,
    refuse_other_release,
    unpacked,
)
from megatron_packing.thd.row_shape import RowShape

APART_SECONDS = 5
"""How long a rank looks for an index in a folder that is another one than that of rank 0."""

Key = tuple[str, int, int, bool]
"""A corpus as the user named it, the first document and the one after the last, for training."""


@dataclass
class OpenedData:
    """What this rank has opened."""

    storage: MegatronStorage
    name: str
    """Of the settings that the indexes are for."""
    corpora: dict[str, Corpus | JoinedCorpus] = field(default_factory=dict)
    """By the text that names them: ``PREFIX[:EPOCHS],...``."""
    indexes: dict[Key, PackIndex] = field(default_factory=dict)
    shape: RowShape | None = None
    handed_on: str | None = None
    """The result of ``as_text`` on rank 0, once it is known."""

    def corpus(
        self, prefixes: str, trust: Callable[[str], Trust] = lambda _: "record"
    ) -> Corpus | JoinedCorpus:
        """Return a corpus, or several that are packed together.

        Raises:
            InputError: One cannot be opened.
        """
        if prefixes not in self.corpora:
            self.corpora[prefixes] = open_corpus_on_every_rank(prefixes, self.storage, trust)
        return self.corpora[prefixes]

    def open_ahead(self, names: Iterable[str]) -> None:
        """Open corpora at once and find their fingerprints, as ``corpus`` does one after another.

        Leaves out what is in an object store, and what cannot be opened.
        """

        def open_one(prefixes: str) -> Corpus | JoinedCorpus:
            say(f"opening {prefixes}")
            corpus = open_corpus(prefixes, self.storage, lambda _: "record")
            _ = corpus.fingerprint
            return corpus

        wanted = [
            name
            for name in names
            if name not in self.corpora and not any(map(is_remote, name.split(",")))
        ]
        found = try_at_once(partial(open_one, name) for name in wanted)
        self.corpora |= {
            name: corpus for name, corpus in zip(wanted, found, strict=True) if corpus is not None
        }

    def as_text(self) -> str:
        """Return what another rank needs to open the same without reading it.

        Raises:
            InputError: A corpus cannot be read.
        """
        known = {
            str(one.prefix): one.known()
            for corpus in self.corpora.values()
            for one in corpus.corpora
        }
        folders = {index.path.parent for index in self.indexes.values()}
        return packed(
            {
                "host": socket.gethostname(),
                "names": list(self.corpora),
                "corpora": {prefix: one.as_json() for prefix, one in known.items()},
                "indexes": [
                    [*key, str(index.path), index.known_digest(), *index.seen()]
                    for key, index in self.indexes.items()
                ],
                "folders": {str(folder): _numbers_of(folder) for folder in folders},
                "shape": None if self.shape is None else [self.shape.width, self.shape.max_seqlen],
            }
        )

    def adopt(self, text: str) -> None:
        """Open what rank 0 has opened.

        Files that are the very same are believed. Copies on this machine are read and compared.

        Args:
            text: The result of ``as_text`` on rank 0.

        Raises:
            InputError: This rank does not see a file, or sees another one.
        """
        found = unpacked(text)
        known = {
            prefix: KnownCorpus.from_json(one, refuse_other_release)
            for prefix, one in found["corpora"].items()
        }
        for prefixes in found["names"]:
            corpus = self.corpus(prefixes, lambda prefix: known[str(corpus_path(prefix))])
            for one in corpus.corpora:  # this rank may have opened it before
                one.check_same(known[str(one.prefix)].files)
        others = {folder: _find_difference(numbers) for folder, numbers in found["folders"].items()}
        opened: dict[str, PackIndex] = {}
        for name, start, stop, training, path, digest, *seen in found["indexes"]:
            if path not in opened:
                other = others[str(Path(path).parent)]
                opened[path] = _open_shared(Path(path), digest, seen, other, found["host"])
            self.indexes[name, start, stop, training] = opened[path]
        if found["shape"] is not None:
            self.shape = RowShape(*found["shape"])


def _numbers_of(folder: Path) -> list[tuple[str, int]]:
    """The inode numbers of a folder and those above it, which nodes that share it have too."""
    numbers = []
    for place in (folder, *folder.parents):
        try:
            numbers.append((str(place), place.stat().st_ino))
        except OSError:
            continue
    return numbers


def _open_same(path: Path, digest: str, manifest: dict[str, Any], place: list[int]) -> PackIndex:
    """Open the index that rank 0 opened, or a copy of it."""
    index = PackIndex.open_known(path, digest, (manifest, place))
    if index.place() != place:
        PackIndex.open(path)  # checks the arrays of a copy
    return index


def _open_shared(
    path: Path, digest: str, seen: list[Any], other_folder: str | None, host: str
) -> PackIndex:
    """Open an index that rank 0 made or opened on a host.

    A network file system may show it late. Where this rank has another folder than rank 0, it never
    shows.
    """
    seconds = STALE_SECONDS if other_folder is None else APART_SECONDS
    try:
        return open_patiently(lambda: _open_same(path, digest, *seen), path.parent, seconds)
    except UnreadableError as error:
        if other_folder is None:
            raise
        here = socket.gethostname()
        other = "this machine" if here == host else host
        raise InputError(
            f"rank 0 has the pack index {path} on {other}, but {Path(other_folder).resolve()} "
            f"seems to be another folder for this rank on {here}, which does not have it: give a "
            f"--data-cache-path, or --packing-indexes, that all nodes share or have copies of"
        ) from error


def _find_difference(numbers: list[tuple[str, int]]) -> str | None:
    """Return the nearest folder that exists here if it is not that of rank 0, else None."""
    for name, number in numbers:
        try:
            return None if Path(name).stat().st_ino == number else name
        except OSError:
            continue
    return None
