"""Finds the corpus that a pack index was made from."""

from __future__ import annotations

from pathlib import Path

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.indexed_dataset import index_path
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.index.pack_index import PackIndex


def open_source(index: PackIndex, prefix: str | Path | None = None) -> Corpus | JoinedCorpus:
    """Open the corpus of an index: the one named, the one it was made from, or a copy beside it.

    Args:
        index: A pack index of a corpus.
        prefix: Where the corpus is now, as ``open_corpus`` takes it. Without it, where it was when
            the index was made; if nothing is there, files of the same names in the folder that
            holds the index, as where both were copied to a node's own disk.

    Raises:
        UnreadableError: There is none, or a part of it is missing.
        InputError: It is another corpus, or the index was made from lengths alone.
    """
    if index.corpus.fingerprint.startswith("lengths-"):
        raise InputError(
            f"the pack index {index.path} was made from the lengths in {index.corpus.prefix}, "
            f"which has no tokens; make one from a corpus"
        )
    corpus = open_corpus(prefix or _where(index))
    index.check_corpus(corpus.prefix, corpus.fingerprint)
    return corpus


def _where(index: PackIndex) -> str:
    """The recorded prefixes, or those of the same names beside the index if all are there."""
    recorded = index.corpus.prefix.split(",")
    copies = [f"{index.path.resolve().parent / Path(entry).name}" for entry in recorded]
    for entries in (recorded, copies):
        if all(_exists(entry) for entry in entries):
            return ",".join(entries)
    raise UnreadableError(
        f"the corpus of the pack index {index.path} is neither at {index.corpus.prefix}, where it "
        f"was, nor beside the index ({copies[0]}); say with --corpus (in Python: the corpus) "
        f"where it is"
    )


def _exists(entry: str) -> bool:
    """Whether a corpus ``PREFIX`` or ``PREFIX:EPOCHS`` is there."""
    prefix, colon, epochs = entry.rpartition(":")
    return index_path(Path(prefix if colon and "/" not in epochs else entry)).exists()
