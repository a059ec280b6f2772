# SPDX-License-Identifier: Apache-2.0
"""Finds where documents stand in packs, and which documents no pack holds whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.index.json_fields import ADVICE
from megatron_packing.index.pack_index import PackIndex, Segments
from megatron_packing.report.console import console
from megatron_packing.thd.layout import place

_MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class PlaceInPack:
    """Where a segment of a document stands."""

    pack: int
    row_position: int
    """Its first position in the row."""
    first_position: int
    """Its first position in the document."""
    num_positions: int


def row_starts(index: PackIndex, segments: Segments) -> tuple[list[int], int]:
    """Return where a pack's segments begin in its row, and where the tail begins.

    Each segment takes a multiple of the index's alignment, as it does where documents attend to
    themselves alone.
    """
    length = index.plan.sequence_length
    width = len(segments.lengths) + 2
    placed = place(segments.lengths, length, width, alignment=index.plan.alignment)
    return placed.starts.tolist(), int(placed.cu_seqlens[len(segments.lengths)])


def places_of(index: PackIndex, num_tokens: NDArray[Any], document: int) -> list[PlaceInPack]:
    """Find the segments of a document, in the order of packs; none if no pack has it.

    Args:
        index: The packs.
        num_tokens: Tokens of each document of the corpus.
        document: The number of a document of the corpus.
    """
    entries = np.flatnonzero(index.document_ids == document)
    packs = np.unique(np.searchsorted(index.pack_offsets, entries, side="right") - 1)
    found = []
    for pack in packs.tolist():
        segments = index.segments(pack, num_tokens)
        starts, _ = row_starts(index, segments)
        found += [
            PlaceInPack(pack, row_position, first_position, num_positions)
            for row_position, (number, first_position, num_positions) in zip(
                starts, segments, strict=True
            )
            if number == document
        ]
    return found


def print_places(index: PackIndex, num_tokens: NDArray[Any], document: int) -> list[dict[str, int]]:
    """Print in which packs a document is, and return its segments for JSON."""
    places = places_of(index, num_tokens, document)
    for at in places:
        last = at.row_position + at.num_positions - 1
        whole = at.num_positions == int(num_tokens[document]) - 1
        end = at.first_position + at.num_positions - 1
        part = "" if whole else f": its positions {at.first_position:,} to {end:,}"
        console.print(f"in pack {at.pack:,}, row {at.row_position:,} to {last:,}{part}")
    if not places:
        console.print(f"in no pack of {index.path}")
    return [asdict(at) for at in places]


def source_of(corpus: Corpus | JoinedCorpus, document: int) -> tuple[Corpus, int]:
    """Return the corpus that a document comes from, and its number in that corpus."""
    return corpus.source_of(document) if isinstance(corpus, JoinedCorpus) else (corpus, document)


def positions_left_out(index: PackIndex, num_tokens: NDArray[Any]) -> dict[int, int]:
    """Count the positions of each document that no pack has; documents with none are not listed.

    The counts are of the arrays, whatever the plan says. A document of under two tokens has no
    position and is listed with 0.

    Args:
        index: The packs.
        num_tokens: Tokens of each document of the corpus.

    Raises:
        InputError: The index holds documents that it was not made from.
    """
    first, count = index.corpus.first_document, index.corpus.num_documents
    tokens = np.asarray(num_tokens)[first : first + count].astype(np.int64)
    positions = np.maximum(tokens - 1, 0)
    documents = index.document_ids.astype(np.int64) - first
    if len(documents) and not 0 <= documents.min() <= documents.max() < len(tokens):
        raise InputError(
            f"{index.path} is damaged: it holds documents that are not from {first} to "
            f"{first + len(tokens) - 1}; {ADVICE}"
        )
    lengths = positions[documents] if index.segment_lengths is None else index.segment_lengths
    held = np.bincount(documents, weights=lengths, minlength=len(tokens)).astype(np.int64)
    listed = np.flatnonzero((held != positions) | (positions == 0))
    missing = (positions - held)[listed]
    return dict(zip((listed + first).tolist(), missing.tolist(), strict=True))


def show_left_out(index: PackIndex, corpus: Corpus | JoinedCorpus) -> dict[str, Any]:
    """Print the documents that no pack holds whole, and return all of them for JSON."""
    missing = positions_left_out(index, corpus.num_tokens)
    count = index.corpus.num_documents
    several = isinstance(corpus, JoinedCorpus)
    if not missing:
        console.print(f"packs hold every position of {counted(count, 'document')}")
    else:
        are = "is" if len(missing) == 1 else "are"
        console.print(
            f"{len(missing):,} of {counted(count, 'document')} {are} not whole in packs; "
            f"{counted(sum(missing.values()), 'position')} left out",
            style="bold",
        )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("document", *(("corpus", "there") if several else ()), "tokens", "left out"):
        table.add_column(name, justify="left" if name == "corpus" else "right", overflow="fold")
    table.add_column("why", no_wrap=True)
    listed = []
    for document, left_out in missing.items():
        source, number = source_of(corpus, document)
        tokens = int(corpus.num_tokens[document])
        listed.append(
            {
                "document": document,
                "corpus": str(source.prefix),
                "document_of_corpus": number,
                "num_tokens": tokens,
                "num_positions_left_out": left_out,
            }
        )
        if len(listed) <= _MOST_LISTED:
            why = "under 2 tokens" if tokens < 2 else "dropped" if left_out == tokens - 1 else "cut"
            there = (str(source.prefix), f"{number:,}") if several else ()
            table.add_row(f"{document:,}", *there, f"{tokens:,}", f"{left_out:,}", why)
    if listed:
        console.print(table, soft_wrap=False)
    if len(listed) > _MOST_LISTED:
        more = counted(len(listed) - _MOST_LISTED, "more document")
        console.print(f"{more}: --json FILE lists all")
    return {"index": str(index.path), "num_documents": count, "left_out": listed}
