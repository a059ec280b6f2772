# SPDX-License-Identifier: Apache-2.0
"""Readable, slow packings to hold the native core against."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np

from megatron_packing import PackPlan


def next_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Longest first; the row is closed at the first that does not fit."""
    rows: list[list[int]] = [[]]
    for length in sorted(lengths, reverse=True):
        if sum(rows[-1]) + length > capacity:
            rows.append([])
        rows[-1].append(length)
    return rows


def first_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Longest first, each into the first row with room."""
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        for row in rows:
            if sum(row) + length <= capacity:
                row.append(length)
                break
        else:
            rows.append([length])
    return rows


def as_multiset(rows: list[list[int]]) -> Counter[tuple[int, ...]]:
    """Rows whatever their order."""
    return Counter(tuple(sorted(row)) for row in rows)


def segments_of(plan: PackPlan, lengths: np.ndarray) -> list[list[tuple[int, int, int]]]:
    """Each pack as (document, start, length)."""
    starts = (
        np.zeros_like(plan.document_ids) if plan.segment_starts is None else plan.segment_starts
    )
    sizes = plan.segment_lengths
    if sizes is None:
        sizes = np.asarray(lengths, np.int64)[plan.document_ids]
    rows = list(zip(plan.document_ids.tolist(), starts.tolist(), sizes.tolist(), strict=True))
    return [rows[first:stop] for first, stop in pairwise(plan.pack_offsets.tolist())]


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Longest first, each into the row that it leaves the least room in."""
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in rows if sum(row) + length <= capacity]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            rows.append([length])
    return rows


def fewest_rows(lengths: list[int], capacity: int, most: int) -> int:
    """The optimum, by trying everything: for a dozen documents."""
    lengths = sorted(lengths, reverse=True)
    best = len(lengths)

    def place(at: int, rows: list[tuple[int, int]]) -> None:
        nonlocal best
        if len(rows) >= best:
            return
        if at == len(lengths):
            best = len(rows)
            return
        length = lengths[at]
        for row, (filled, count) in enumerate(rows):
            alike = (filled, count) in rows[:row]  # equal rows lead to equal plans
            if not alike and filled + length <= capacity and count < most:
                place(at + 1, [*rows[:row], (filled + length, count + 1), *rows[row + 1 :]])
        place(at + 1, [*rows, (length, 1)])

    place(0, [])
    return best


def lengths_of_packs(plan: PackPlan, lengths: np.ndarray) -> list[list[int]]:
    """The lengths of each pack's segments."""
    return [[length for _, _, length in pack] for pack in segments_of(plan, lengths)]
