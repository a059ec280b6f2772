# SPDX-License-Identifier: Apache-2.0
"""Finds the corpus that a pack index was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_packing.corpus.corpus import Corpus, KnownCorpus, Trust
from megatron_packing.corpus.indexed_dataset import index_path
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus, split_entry
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.index.pack_index import PackIndex


def open_source(
    index: PackIndex,
    prefix: str | Path | None = None,
    trust: Trust | Sequence[KnownCorpus] = "nothing",
) -> Corpus | JoinedCorpus:
    """Open the corpus of an index: the one named, a copy beside it, or the one it was made from.

    Args:
        index: A pack index of a corpus.
        prefix: Where the corpus is now, as ``open_corpus`` takes it. Without it, files of the same
            names in the folder that holds the index, as where both were copied to a node's own
            disk; where there are none, or of another corpus, where it was when the index was made,
            from the working folder or from a folder above the index.
        trust: What is believed of the corpus in place of reading it; see ``Corpus``. Of several
            corpora that are joined, what is known of each, in their order.

    Raises:
        UnreadableError: There is none, or a part of it is missing.
        InputError: It is another corpus, or the index was made from lengths alone.
    """
    if index.corpus.fingerprint.startswith("lengths-"):
        raise InputError(
            f"the pack index {index.path} was made from the lengths in {index.corpus.prefix}, "
            f"which has no tokens; make one from a corpus"
        )
    if prefix is not None:
        return _open(index, str(prefix), trust)
    recorded = index.corpus.prefix
    folder = index.path.resolve().parent
    beside = _in(folder, *(Path(entry).name for entry in recorded.split(",")))
    places = [beside, recorded]
    if not all(Path(entry).is_absolute() for entry in recorded.split(",")):
        # A path that was relative to the working folder: often one of those above the index.
        places += [_in(above, *recorded.split(",")) for above in (folder, *folder.parents)]
    refusal = None
    for place in dict.fromkeys(places):
        if all(_exists(entry) for entry in place.split(",")):
            try:
                return _open(index, place, trust)
            except InputError as error:
                refusal = error
    if refusal is not None:
        raise refusal
    raise UnreadableError(
        f"the corpus of the pack index {index.path} is neither at {recorded}, where it was, nor "
        f"beside the index ({beside}); say with --corpus (in Python: the corpus) where it is"
    )


def _in(folder: Path, *entries: str) -> str:
    return ",".join(f"{folder / entry}" for entry in entries)


def _open(
    index: PackIndex, prefixes: str, trust: Trust | Sequence[KnownCorpus]
) -> Corpus | JoinedCorpus:
    if isinstance(trust, str | KnownCorpus):
        corpus = open_corpus(prefixes, trust=lambda _: trust)
    else:
        names = [split_entry(entry)[0] for entry in prefixes.split(",")]
        known = dict(zip(names, trust, strict=True))
        corpus = open_corpus(prefixes, trust=lambda name: known[name])
    check_source(index, corpus)
    return corpus


def check_source(index: PackIndex, corpus: Corpus | JoinedCorpus) -> None:
    """Refuse a corpus that an index was not made from, or whose record contradicts the index.

    Raises:
        InputError: The content differs, or the record says another tokenizer or largest token.
    """
    index.check_corpus(corpus.prefix, corpus.fingerprint)
    check_records(index, corpus)


def check_records(index: PackIndex, corpus: Corpus | JoinedCorpus) -> None:
    """Refuse an index that says something else of its corpus than the corpus's own record.

    What one of them does not say is not compared.

    Raises:
        InputError: Another tokenizer or another largest token.
    """
    tokenizer, largest = index.corpus.tokenizer_sha256, index.corpus.largest_token
    recorded = []
    for part in corpus.corpora:
        sha256 = part.record.tokenizer_sha256 if part.record else None
        if tokenizer is not None and sha256 not in (None, tokenizer):
            raise InputError(
                f"{index.path} is wrong: its tokenizer is {tokenizer:.12}, but that of "
                f"{part.prefix} is {sha256:.12}; make the pack index again"
            )
        recorded.append(part.record.largest_token if part.record else None)
    known = [token for token in recorded if token is not None]
    if largest is not None and len(known) == len(recorded) and max(known) != largest:
        raise InputError(
            f"{index.path} is wrong: its largest token is {largest:,}, but the record of "
            f"{corpus.prefix} says {max(known):,}; make the pack index again"
        )


def _exists(entry: str) -> bool:
    """Whether a corpus ``PREFIX`` or ``PREFIX:EPOCHS`` is there."""
    prefix = Path(split_entry(entry)[0])
    try:
        return prefix.name != "" and index_path(prefix).exists()
    except OSError:  # a folder of another user, a name that is too long
        return False
