# SPDX-License-Identifier: Apache-2.0
"""Plans packs from the lengths of documents: the Python face of the native core."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing._strategy import Strategy as Strategy
from megatron_packing.errors import SettingError

Overlong = Literal["error", "drop", "truncate", "split"]
Effort = Literal["default", "high"]

OVERLONG: tuple[Overlong, ...] = get_args(Overlong)
EFFORTS: tuple[Effort, ...] = get_args(Effort)

_NO_LIMIT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class StrategyRow:
    """A row of the table of strategies in ``csrc/strategies/table.cpp``."""

    name: Strategy
    cuts_documents: bool
    """Whether documents of any length are cut where rows end, so that no lower bound of whole
    documents holds and overlong documents are neither dropped nor truncated."""
    by_length: bool
    """Whether it sees only how many documents there are of each length. Others look at documents
    one after another, in an order that the seed decides."""
    summary: str
    """What it does, for ``--help``."""


STRATEGY_TABLE = {row[0]: StrategyRow(*row) for row in _core.strategies()}
"""All strategies by name, in the order in which they are listed."""
STRATEGIES = tuple(STRATEGY_TABLE)
BASELINE = STRATEGIES[0]
"""One document a row: what packing is measured against."""


def describe_strategies() -> str:
    """What each strategy does, for the help of a flag."""
    return "; ".join(f"{row.name}: {row.summary}" for row in STRATEGY_TABLE.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class PackPlan:
    """Packs in compressed-row form.

    Pack ``p`` holds the entries ``pack_offsets[p]`` to ``pack_offsets[p + 1]`` of the other arrays.
    """

    sequence_length: int
    """Positions in a row."""
    alignment: int
    """Each segment takes a multiple of this many positions in its row."""
    pack_offsets: NDArray[np.int64]
    """Shape ``(num_packs + 1,)``."""
    document_ids: NDArray[np.integer]
    """Shape ``(num_segments,)``: the document of each segment; int32, or int64 where there are more
    than 2**31 - 1."""
    segment_starts: NDArray[np.int64] | None
    """First position of each segment in its document; None where every document is whole."""
    segment_lengths: NDArray[np.int64] | None
    """Positions of each segment; None where every document is whole."""
    lower_bound: int
    """No plan of whole documents under the same options has fewer packs."""
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
    strategy: Strategy = "optimal",
    effort: Effort = "default",
    alignment: int = 1,
    max_documents_per_pack: int | None = None,
    overlong: Overlong = "error",
    min_packs: int = 0,
    packs_multiple_of: int = 1,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> PackPlan:
    """Plan packs for documents of the given lengths.

    Documents of equal length take each other's places in an order that depends on ``seed`` alone,
    and packs stand in a seeded order, so that the plan keeps no trace of the order of the input.

    Args:
        lengths: Shape ``(num_documents,)``, any integer dtype: positions of each document, which
            is its tokens less one. uint16, int32 and int64 are read in place.
        sequence_length: Positions in a row, at most 2**26.
        strategy: ``padding`` (one document a row), ``random`` (concatenate in a random order and
            cut every ``sequence_length`` positions), ``greedy`` (longest first, a row is closed at
            the first document that does not fit), ``first_fit_shuffle`` (in a random order, each
            into the first row with room), ``first_fit_decreasing``, ``best_fit_decreasing``, or
            ``optimal``, which never needs more packs than ``first_fit_decreasing``. arXiv
            2410.08081 names the first three.
        effort: How long ``optimal`` looks for better packs where the lower bound is not met:
            ``default`` (tenths of a second) or ``high`` (up to a minute).
        alignment: Each segment takes a multiple of this in its row; it divides the row.
        max_documents_per_pack: At most so many segments in a pack; None: no limit.
        overlong: What happens to documents longer than a row: ``error``, ``drop``, ``truncate`` or
            ``split`` (full rows first, the rest is packed: arXiv 2404.10830). ``random`` cuts
            documents anyway.
        min_packs: Packs are divided until there are so many.
        packs_multiple_of: Packs are divided until their number is a multiple of this, so that an
            epoch is a whole number of global batches. Packs stay empty only where there are fewer
            documents than packs, or under ``random`` and ``first_fit_shuffle``.
        seed: Any integer from 0 to 2**64 - 1.
        progress: Called with the share of the work that is done, a few times a second.

    Raises:
        TypeError: ``lengths`` is not an integer array, or an option is not an integer.
        ValueError: ``lengths`` is empty, not one-dimensional or holds a length below 1 or above
            the sequence length (with ``overlong="error"``), or an option is outside its range; the
            plan would not fit into this machine's memory; or ``lengths`` changed meanwhile.
        OverflowError: The lengths add up to more than 2**63 - 1.
    """
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths has dtype {lengths.dtype}; it must hold integers")
    if lengths.ndim != 1:
        raise ValueError(f"lengths has shape {lengths.shape}; it must have one dimension")
    if lengths.size == 0:
        raise ValueError("lengths is empty; there is nothing to pack")
    if not 0 <= _integer("seed", seed) < 2**64:
        raise SettingError(f"{{seed}} is {seed}; it must be between 0 and 2**64 - 1")
    if max_documents_per_pack is None:
        max_documents_per_pack = _NO_LIMIT
    try:
        plan = _core.plan_packs(
            _in_a_core_dtype(lengths),
            progress,
            strategy=strategy,
            sequence_length=_int64("sequence_length", sequence_length),
            effort=effort,
            alignment=_int64("alignment", alignment),
            max_documents_per_pack=_int64("max_documents_per_pack", max_documents_per_pack),
            overlong=overlong,
            min_packs=_int64("min_packs", min_packs),
            packs_multiple_of=_int64("packs_multiple_of", packs_multiple_of),
            seed=seed,
        )
    except _core.SettingError as error:
        raise SettingError(str(error)) from None
    was_cut = len(plan["segment_starts"]) > 0
    num_overlong = plan["num_documents_overlong"]
    return PackPlan(
        sequence_length=sequence_length,
        alignment=alignment,
        pack_offsets=plan["pack_offsets"],
        document_ids=plan["document_ids"],
        segment_starts=plan["segment_starts"] if was_cut else None,
        segment_lengths=plan["segment_lengths"] if was_cut else None,
        lower_bound=plan["lower_bound"],
        num_documents=len(lengths),
        num_positions=plan["num_positions"],
        num_documents_split=plan["num_documents_split"],
        num_documents_dropped=num_overlong if overlong == "drop" else 0,
        num_documents_truncated=num_overlong if overlong == "truncate" else 0,
        num_positions_lost=plan["num_positions_lost"],
    )


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it must be an integer") from None


def _int64(name: str, value: Any) -> int:
    number = _integer(name, value)
    if abs(number) > _NO_LIMIT:
        raise SettingError(f"{{{name}}} is {number}, which does not fit in 64 bits")
    return number


def _in_a_core_dtype(lengths: NDArray[Any]) -> NDArray[Any]:
    """The same lengths, contiguous, in one of the three dtypes that the core reads."""
    if lengths.dtype in (np.uint16, np.int32, np.int64):
        return np.ascontiguousarray(lengths, dtype=lengths.dtype.newbyteorder("="))
    if lengths.dtype == np.uint64 and lengths.max() > _NO_LIMIT:
        raise OverflowError(f"length {lengths.max()} does not fit in 64 bits")
    return np.ascontiguousarray(lengths, dtype=np.int32 if lengths.itemsize <= 2 else np.int64)
