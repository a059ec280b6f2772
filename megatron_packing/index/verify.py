"""Proves that a pack index holds its corpus."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex, PlanSettings, group_places


def verify_pack_index(index: PackIndex, num_tokens: NDArray[Any]) -> None:
    """Prove that every position is in the index exactly once and that no pack is overfull.

    Positions that the plan left out (dropped and truncated documents) must add up to the count in
    the manifest. The proof reads the arrays alone, not how they were made.

    Args:
        index: The index.
        num_tokens: Tokens of each document of the corpus, shape ``(num_documents,)``.

    Raises:
        InputError: Names the first document or pack that is wrong.
    """
    index.check_arrays()
    problem = _find_problem(index, num_tokens)
    if problem:
        raise InputError(f"{index.path} is wrong: {problem}; make the pack index again")


def _find_problem(index: PackIndex, num_tokens: NDArray[Any]) -> str | None:
    offsets, documents = np.asarray(index.pack_offsets), np.asarray(index.document_ids)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(documents):
        return f"its pack offsets do not run from 0 to its {len(documents)} segments"
    if (np.diff(offsets) < 0).any():
        return f"the pack offsets fall after pack {int(np.argmax(np.diff(offsets) < 0))}"
    first, count = index.corpus.first_document, index.corpus.num_documents
    outside = (documents < first) | (documents >= min(first + count, len(num_tokens)))
    if outside.any():
        return (
            f"document {int(documents[np.argmax(outside)])} is not one of the documents "
            f"{first} to {first + count - 1} of the corpus"
        )
    positions = np.maximum(np.asarray(num_tokens, np.int64) - 1, 0)
    starts, lengths = index.segment_starts, index.segment_lengths
    if (starts is None) != (lengths is None):
        return "only one of segment_starts and segment_lengths is there"
    starts = np.zeros(len(documents), np.int64) if starts is None else np.asarray(starts)
    lengths = positions[documents] if lengths is None else np.asarray(lengths)
    if len(starts) != len(documents) or len(lengths) != len(documents):
        return "its arrays have different lengths"
    return (
        _find_bad_segment(documents, starts, lengths, positions)
        or _find_overfull(offsets, lengths, index.plan)
        or _find_uncovered(index, documents, starts, lengths, positions)
        or _find_bad_groups(index, lengths)
    )


def _find_bad_segment(
    documents: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> str | None:
    bad = (starts < 0) | (lengths < 1) | (starts + lengths > positions[documents])
    if not bad.any():
        return None
    at = int(np.argmax(bad))
    return (
        f"a segment of document {int(documents[at])} runs from position {int(starts[at])} for "
        f"{int(lengths[at])}, but the document has {int(positions[documents[at]])}"
    )


def _find_overfull(
    offsets: NDArray[np.int64], lengths: NDArray[np.int64], plan: PlanSettings
) -> str | None:
    aligned = -(-lengths // plan.alignment) * plan.alignment
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(aligned)])
    filled = ends[offsets[1:]] - ends[offsets[:-1]]
    worst = int(np.argmax(filled))
    if filled[worst] > plan.sequence_length:
        return f"pack {worst} has {int(filled[worst])} positions in a row of {plan.sequence_length}"
    counts = np.diff(offsets)
    most = int(np.argmax(counts))
    if plan.max_documents_per_pack and counts[most] > plan.max_documents_per_pack:
        return (
            f"pack {most} has {int(counts[most])} segments where the plan allows "
            f"{plan.max_documents_per_pack}"
        )
    return None


def _find_uncovered(
    index: PackIndex,
    documents: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> str | None:
    order = np.lexsort((starts, documents))
    documents, starts, ends = documents[order], starts[order], (starts + lengths)[order]
    same = documents[1:] == documents[:-1]
    overlap = same & (starts[1:] < ends[:-1])
    if overlap.any():
        return f"document {int(documents[1:][np.argmax(overlap)])} is in the index more than once"

    first, count = index.corpus.first_document, index.corpus.num_documents
    covered = np.bincount(
        documents - first, weights=(ends - starts).astype(np.float64), minlength=count
    ).astype(np.int64)
    missing = positions[first : first + count] - covered
    num_missing = int(missing.sum())
    if num_missing == index.figures.num_positions_lost:
        left_out = int(np.count_nonzero(missing))
        allowed = index.figures.num_documents_dropped + index.figures.num_documents_truncated
        if left_out == allowed:
            return None
        return f"{left_out} documents are not whole where the manifest counts {allowed}"
    return (
        f"document {first + int(np.argmax(missing > 0))} lacks positions: {num_missing} are "
        f"missing in all, where the manifest counts {index.figures.num_positions_lost} as left out"
    )


def _find_bad_groups(index: PackIndex, lengths: NDArray[np.int64]) -> str | None:
    expected = group_places(lengths, index.plan.sequence_length, index.plan.alignment)
    for name, array in expected.items():
        if not np.array_equal(getattr(index, name), array):
            return f"{name} does not group its segments by length"
    return None
