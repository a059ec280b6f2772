# SPDX-License-Identifier: Apache-2.0
"""Proves that a pack index holds its corpus, and that its figures are true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.content import OnRead
from megatron_packing.corpus.corpus import Corpus, loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import data_path
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.packable import packable_lengths
from megatron_packing.index.source import check_records
from megatron_packing.index.trained import find_tokens, find_trained, list_hashes
from megatron_packing.index.write import group_places
from megatron_packing.planning.plan import plan_packs
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.planning.strategies import BASELINE, STRATEGY_TABLE

_LEFT_OF_OVERLONG = {
    "drop": "num_documents_dropped",
    "truncate": "num_documents_truncated",
    "split": "num_documents_split",
}
"""The figure that counts the documents longer than a row, by what the plan does with them."""


def verify_pack_index(index: PackIndex, num_tokens: NDArray[Any]) -> None:
    """Prove that every position is in the index exactly once and that no pack is overfull.

    Positions that the plan left out (dropped and truncated documents) must add up to the count in
    the manifest, and the other figures are counted anew. The proof reads the arrays alone, not how
    they were made. For the lower bound see ``prove_lower_bound``.

    Args:
        index: The index.
        num_tokens: Tokens of each document of the corpus, shape ``(num_documents,)``.

    Raises:
        InputError: Names the first document or pack that is wrong.
    """
    index.check_arrays()
    problem = _find_problem(index, num_tokens)
    if problem:
        raise _wrong(index, problem)


def verify_content(
    index: PackIndex,
    corpus: Corpus | JoinedCorpus,
    *,
    deep: bool = False,
    on_read: OnRead | None = None,
) -> None:
    """Prove what an index says of its corpus's data. Reads all loss masks.

    Args:
        index: The index, which ``verify_pack_index`` found right.
        corpus: What it was made from.
        deep: Read all tokens too, and compare the hashes of all data with those in the manifest.
        on_read: Called with how many bytes more were read.

    Raises:
        InputError: A loss mask or a token is none, a count is wrong, the data were changed, or the
            manifest has no hashes of them.
    """
    if deep and index.corpus.content_sha256 is None:
        raise InputError(
            f"{index.path} holds no hashes of its corpus's data, so --deep has nothing to compare; "
            f"make the pack index again, without --no-content-hashes"
        )
    check_records(index, corpus)
    documents = np.asarray(index.document_ids)
    starts, lengths = index.segment_starts, index.segment_lengths
    if starts is None or lengths is None:
        lengths = np.asarray(corpus.num_tokens)[documents].astype(np.int64) - 1
        starts = np.zeros_like(lengths)
    trained = find_trained(
        corpus,
        np.asarray(index.pack_offsets),
        documents,
        np.asarray(starts),
        np.asarray(lengths),
        on_read,
    )
    for name in ("num_documents_untrained", "num_packs_untrained"):
        counted, found = getattr(index.figures, name), getattr(trained, name)
        if counted is not None and counted != found:
            raise _wrong(index, f"its {name} is {counted}, but there are {found}")
    if not deep:
        return
    tokens = find_tokens(corpus, read_all=True, on_read=on_read)
    if index.corpus.largest_token not in (None, tokens.largest):
        raise _wrong(
            index, f"its largest token is {index.corpus.largest_token}, but it is {tokens.largest}"
        )
    found_hashes = list_hashes(tokens.sha256 or [], trained.mask_sha256)
    files = list_hashes(
        [str(data_path(part.prefix)) for part in corpus.corpora],
        [
            str(data_path(loss_mask_prefix(part.prefix))) if part.has_loss_mask else None
            for part in corpus.corpora
        ],
    )
    recorded_hashes = index.corpus.content_sha256 or ()
    if len(recorded_hashes) != len(files):
        raise _wrong(index, f"it has {len(recorded_hashes)} hashes for {len(files)} data files")
    for file, before, now in zip(files, recorded_hashes, found_hashes, strict=True):
        if before != now:
            raise InputError(
                f"{file} was changed after {index.path} was made from it (its hash differs); copy "
                f"it again, or make the pack index again"
            )


def prove_lower_bound(index: PackIndex, num_tokens: NDArray[Any]) -> int:
    """The lower bound that this release proves for an index.

    A quick bound is tried first. Where it is less than the recorded one, documents are planned
    again under the index's settings, which takes as long as planning them did.

    Args:
        index: The index.
        num_tokens: Tokens of each document of the corpus, shape ``(num_documents,)``.
    """
    first, count = index.corpus.first_document, index.corpus.num_documents
    lengths, _ = packable_lengths(num_tokens[first : first + count], index.corpus.prefix)
    recorded, proven = index.figures.lower_bound, 0
    chosen = index.plan.strategy
    # A strategy that cuts documents has a bound of its own; the others' bounds hold for each other.
    quick = () if STRATEGY_TABLE[chosen].cuts_documents else (BASELINE,)
    for strategy in dict.fromkeys((*quick, chosen)):
        plan = plan_packs(lengths, replace(index.plan, strategy=strategy))
        proven = max(proven, plan.lower_bound)
        if proven >= recorded:
            break
    return proven


def _wrong(index: PackIndex, problem: str) -> InputError:
    return InputError(f"{index.path} is wrong: {problem}; make the pack index again")


def _find_problem(index: PackIndex, num_tokens: NDArray[Any]) -> str | None:
    offsets, documents = np.asarray(index.pack_offsets), np.asarray(index.document_ids)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(documents):
        return f"its pack offsets do not run from 0 to its {len(documents)} segments"
    if (np.diff(offsets) < 0).any():
        return f"the pack offsets fall after pack {int(np.argmax(np.diff(offsets) < 0))}"
    first, count = index.corpus.first_document, index.corpus.num_documents
    if first + count > len(num_tokens):
        return (
            f"it is of the documents {first} to {first + count - 1}, but the corpus has "
            f"{len(num_tokens)} documents"
        )
    outside = (documents < first) | (documents >= first + count)
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
        or _find_wrong_figure(index, documents, lengths, positions)
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


def _find_wrong_figure(
    index: PackIndex,
    documents: NDArray[np.integer],
    lengths: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> str | None:
    """Count every figure anew, but for the lower bound."""
    first, count = index.corpus.first_document, index.corpus.num_documents
    positions = positions[first : first + count]
    num_packs, num_positions = len(index), int(lengths.sum())
    segments = np.bincount(documents - first, minlength=count)
    dropped = int(np.count_nonzero((segments == 0) & (positions > 0)))
    lost = np.bincount(documents - first, weights=lengths, minlength=count) < positions
    figures = {
        "num_packs": num_packs,
        "num_positions": num_positions,
        "max_documents_per_pack": int(np.diff(index.pack_offsets).max()),
        "num_documents_split": int(np.count_nonzero(segments > 1)),
        "num_documents_dropped": dropped,
        "num_documents_truncated": int(np.count_nonzero(lost)) - dropped,
        "num_documents_empty": int(np.count_nonzero(positions == 0)),
    }
    for name, found in figures.items():
        recorded = getattr(index.figures, name)
        if recorded != found:
            return f"its {name} is {recorded}, but it is {found}"
    utilisation = num_positions / (num_packs * index.plan.sequence_length)
    if abs(index.figures.utilisation - utilisation) > 1e-9:
        return f"its utilisation is {index.figures.utilisation}, but it is {utilisation}"
    if STRATEGY_TABLE[index.plan.strategy].cuts_documents:
        return None  # as it likes
    if index.figures.lower_bound > num_packs:
        return f"its lower bound is {index.figures.lower_bound}, but it has {num_packs} packs"
    num_over = int(np.count_nonzero(positions > index.plan.sequence_length))
    for overlong, name in _LEFT_OF_OVERLONG.items():
        if figures[name] != (num_over if index.plan.overlong == overlong else 0):
            return (
                f"its plan says overlong {index.plan.overlong} and {num_over} documents are longer "
                f"than a row, but its {name} is {figures[name]}"
            )
    return None


def _find_bad_groups(index: PackIndex, lengths: NDArray[np.int64]) -> str | None:
    expected = group_places(lengths, index.plan.sequence_length, index.plan.alignment)
    for name, array in expected.items():
        if not np.array_equal(getattr(index, name), array):
            return f"{name} does not group its segments by length"
    return None
