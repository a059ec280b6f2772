"""Plans packs from the lengths of documents: the Python face of the native core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core

Strategy = Literal["padding", "random", "greedy", "first_fit_decreasing"]
Overlong = Literal["error", "drop", "truncate", "split"]

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
OVERLONG: tuple[Overlong, ...] = get_args(Overlong)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackPlan:
    """Packs in compressed-row form.

    Pack ``p`` holds the entries ``pack_offsets[p]`` to ``pack_offsets[p + 1]`` of the other arrays.
    """

    sequence_length: int
    """Positions in a row."""
    pack_offsets: NDArray[np.int64]
    """Shape ``(num_packs + 1,)``."""
    document_ids: NDArray[np.int64]
    """Shape ``(num_segments,)``: the document of each segment."""
    segment_starts: NDArray[np.int64] | None
    """First position of each segment in its document; None where every document is whole."""
    segment_lengths: NDArray[np.int64] | None
    """Positions of each segment; None where every document is whole."""
    num_documents: int
    """Documents that were planned."""
    num_positions: int
    """Positions in the packs; alignment and tails are not counted."""
    num_documents_split: int
    """Documents with more than one segment."""
    num_documents_dropped: int
    """Over-long documents left out (overlong="drop")."""
    num_documents_truncated: int
    """Over-long documents cut to the sequence length (overlong="truncate")."""
    num_positions_lost: int
    """Positions of dropped documents and cut-off ends."""

    @property
    def num_packs(self) -> int:
        """Rows of the plan."""
        return len(self.pack_offsets) - 1

    @property
    def utilisation(self) -> float:
        """Real positions / (packs * sequence_length)."""
        return self.num_positions / max(1, self.num_packs * self.sequence_length)


def plan_packs(
    lengths: NDArray[Any],
    sequence_length: int,
    *,
    strategy: Strategy = "first_fit_decreasing",
    overlong: Overlong = "error",
    packs_multiple_of: int = 1,
    seed: int = 0,
) -> PackPlan:
    """Plan packs for documents of the given lengths.

    Documents of equal length take each other's places in an order that depends on ``seed`` alone,
    and packs stand in a seeded order, so that the plan keeps no trace of the order of the input.

    Args:
        lengths: Shape ``(num_documents,)``, any integer dtype: positions of each document, which
            is its tokens less one.
        sequence_length: Positions in a row.
        strategy: ``padding`` (one document a row), ``random`` (concatenate in a random order and
            cut every ``sequence_length`` positions), ``greedy`` (longest first, a row is closed at
            the first document that does not fit) or ``first_fit_decreasing``; arXiv 2410.08081
            names the first three.
        overlong: What happens to documents longer than a row: ``error``, ``drop``, ``truncate`` or
            ``split`` (full rows first, the rest is packed: arXiv 2404.10830). ``random`` cuts
            documents anyway.
        packs_multiple_of: Empty packs are added until the number of packs is a multiple of this, so
            that an epoch is a whole number of global batches.
        seed: Any integer from 0 to 2**64 - 1.

    Raises:
        TypeError: ``lengths`` is not an integer array.
        ValueError: ``lengths`` is empty, not one-dimensional or holds a length below 1 or above
            the sequence length (with ``overlong="error"``), or an option is outside its range.
        OverflowError: The lengths add up to more than 2**63 - 1.
    """
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths has dtype {lengths.dtype}; it must hold integers")
    if lengths.ndim != 1:
        raise ValueError(f"lengths has shape {lengths.shape}; it must have one dimension")
    if lengths.size == 0:
        raise ValueError("lengths is empty; there is nothing to pack")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it must be between 0 and 2**64 - 1")
    lengths = np.ascontiguousarray(lengths, dtype=lengths.dtype.newbyteorder("="))

    pack_offsets, document_ids, segment_starts, segment_lengths = _core.plan_packs(
        lengths, sequence_length, strategy, overlong, packs_multiple_of, seed
    )
    over = lengths > sequence_length
    num_over = int(np.count_nonzero(over))
    cut_by_plan = overlong in ("drop", "truncate") and strategy != "random"
    num_positions_lost = 0
    if num_over and cut_by_plan:
        kept = sequence_length if overlong == "truncate" else 0
        num_positions_lost = int(lengths[over].sum(dtype=np.int64)) - kept * num_over
    was_split = len(segment_starts) > 0 and not cut_by_plan
    return PackPlan(
        sequence_length=sequence_length,
        pack_offsets=pack_offsets,
        document_ids=document_ids,
        segment_starts=segment_starts if len(segment_starts) else None,
        segment_lengths=segment_lengths if len(segment_lengths) else None,
        num_documents=len(lengths),
        num_positions=int(lengths.sum(dtype=np.int64)) - num_positions_lost,
        num_documents_split=_count_repeated(document_ids, len(lengths)) if was_split else 0,
        num_documents_dropped=num_over if cut_by_plan and overlong == "drop" else 0,
        num_documents_truncated=num_over if cut_by_plan and overlong == "truncate" else 0,
        num_positions_lost=num_positions_lost,
    )


def _count_repeated(document_ids: NDArray[np.int64], num_documents: int) -> int:
    return int(np.count_nonzero(np.bincount(document_ids, minlength=num_documents) > 1))
