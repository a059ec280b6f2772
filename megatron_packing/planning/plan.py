# SPDX-License-Identifier: Apache-2.0
"""Plans packs from the lengths of documents: the Python face of the native core."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing.errors import SettingError
from megatron_packing.planning.settings import PlanSettings

_NO_LIMIT = 2**63 - 1


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
    settings: PlanSettings | int | None = None,
    *,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> PackPlan:
    """Plan packs for documents of the given lengths.

    Documents of equal length take each other's places in an order that depends on the seed alone,
    and packs stand in a seeded order, so that the plan keeps no trace of the order of the input.

    ``plan_packs(lengths, 4096, overlong="split")`` is
    ``plan_packs(lengths, PlanSettings(sequence_length=4096, overlong="split"))``. The strategies
    ``padding``, ``random`` and ``greedy`` are those of arXiv 2410.08081, ``split`` is that of arXiv
    2404.10830. ``optimal`` never needs more packs than ``first_fit_decreasing``. Packs stay empty
    only where there are fewer documents than packs, or under ``random`` and ``first_fit_shuffle``.

    Args:
        lengths: Shape ``(num_documents,)``, any integer dtype: positions of each document, which
            is its tokens less one. uint16, int32 and int64 are read in place.
        settings: The settings, or the sequence length alone: positions in a row, at most 2**26.
        progress: Called with the share of the work that is done, a few times a second.
        **options: Fields of ``PlanSettings``, where no settings are given.

    Raises:
        TypeError: ``lengths`` is not an integer array, an option is not an integer, or there is no
            option of that name.
        ValueError: ``lengths`` is empty, not one-dimensional or holds a length below 1; the plan
            would not fit into this machine's memory; or ``lengths`` changed meanwhile.
        SettingError: A ValueError: an option is outside its range, or a length is above the
            sequence length with ``overlong="error"``.
        OverflowError: The lengths add up to more than 2**63 - 1.
    """
    if not isinstance(settings, PlanSettings):
        if settings is not None or "sequence_length" not in options:
            settings = PlanSettings(sequence_length=settings, **options)  # type: ignore[arg-type]
        else:
            settings = PlanSettings(**options)
    elif options:
        raise TypeError(f"settings and {', '.join(options)} are given; change the settings")
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths has dtype {lengths.dtype}; it must hold integers")
    if lengths.ndim != 1:
        raise ValueError(f"lengths has shape {lengths.shape}; it must have one dimension")
    if lengths.size == 0:
        raise ValueError("lengths is empty; there is nothing to pack")
    try:
        plan = _core.plan_packs(_in_a_core_dtype(lengths), progress, **_for_core(settings))
    except _core.SettingError as error:
        raise SettingError(str(error)) from None
    was_cut = len(plan["segment_starts"]) > 0
    num_overlong = plan["num_documents_overlong"]
    return PackPlan(
        sequence_length=settings.sequence_length,
        alignment=settings.alignment,
        pack_offsets=plan["pack_offsets"],
        document_ids=plan["document_ids"],
        segment_starts=plan["segment_starts"] if was_cut else None,
        segment_lengths=plan["segment_lengths"] if was_cut else None,
        lower_bound=plan["lower_bound"],
        num_documents=len(lengths),
        num_positions=plan["num_positions"],
        num_documents_split=plan["num_documents_split"],
        num_documents_dropped=num_overlong if settings.overlong == "drop" else 0,
        num_documents_truncated=num_overlong if settings.overlong == "truncate" else 0,
        num_positions_lost=plan["num_positions_lost"],
    )


def _for_core(settings: PlanSettings) -> dict[str, str | int]:
    """The settings by name as the core takes them: texts, and integers of 64 bits."""
    values: dict[str, str | int] = {}
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if isinstance(field.default, str):
            values[name] = value
            continue
        number = _NO_LIMIT if value is None and field.default is None else _integer(name, value)
        if name == "seed" and not 0 <= number < 2**64:
            raise SettingError(f"{{seed}} is {number}; it must be between 0 and 2**64 - 1")
        if name != "seed" and abs(number) > _NO_LIMIT:
            raise SettingError(f"{{{name}}} is {number}, which does not fit in 64 bits")
        values[name] = number
    return values


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it must be an integer") from None


def _in_a_core_dtype(lengths: NDArray[Any]) -> NDArray[Any]:
    """The same lengths, contiguous, in one of the three dtypes that the core reads."""
    if lengths.dtype in (np.uint16, np.int32, np.int64):
        return np.ascontiguousarray(lengths, dtype=lengths.dtype.newbyteorder("="))
    if lengths.dtype == np.uint64 and lengths.max() > _NO_LIMIT:
        raise OverflowError(f"length {lengths.max()} does not fit in 64 bits")
    return np.ascontiguousarray(lengths, dtype=np.int32 if lengths.itemsize <= 2 else np.int64)
