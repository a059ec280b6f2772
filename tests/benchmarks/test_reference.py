# SPDX-License-Identifier: Apache-2.0
"""The reference of benchmarks/quality.py, against every way to pack few documents."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.length_sets import PETERSEN, fit_three_rows, irup, kernel
from benchmarks.reference import fewest_packs
from megatron_packing import plan_packs


def fewest_by_trying(lengths: list[int], row: int, most: int) -> int:
    """Puts each document into each row that has room."""
    fewest = len(lengths)

    def place(number: int, rows: list[tuple[int, int]]) -> None:
        nonlocal fewest
        if number == len(lengths):
            fewest = min(fewest, len(rows))
            return
        for at, (room, places) in enumerate(rows):
            if room >= lengths[number] and places > 0:
                place(
                    number + 1,
                    [*rows[:at], (room - lengths[number], places - 1), *rows[at + 1 :]],
                )
        if len(rows) + 1 < fewest:
            place(number + 1, [*rows, (row - lengths[number], most - 1)])

    place(0, [])
    return fewest


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=7),
    most=st.sampled_from([None, 1, 2, 3]),
)
@settings(max_examples=30, deadline=None)
def test_what_highs_proves_is_true(lengths, most):
    row = 12
    bound, optimum = fewest_packs(np.array(lengths), row, most, seconds=60)
    fewest = fewest_by_trying(lengths, row, most or len(lengths))
    assert bound <= fewest
    assert optimum in (None, fewest)


def test_documents_over_a_row_are_split():
    assert fewest_packs(np.array([25, 10, 20]), 10, None, 60) == (6, 6)
    assert fewest_packs(np.array([20, 10]), 10, 1, 60) == (3, 3)


def test_nothing_is_said_where_the_time_is_over():
    lengths = np.random.default_rng(0).integers(100, 400, 200)
    assert fewest_packs(lengths, 1000, None, seconds=0) == (0, None)


def test_the_kernel_fills_three_rows_in_fractions_alone():
    """Each of the Petersen graph's six perfect matchings, half of each, covers every edge once."""
    assert len(PETERSEN) == 15
    lengths = kernel(np.random.default_rng(0), 834)
    assert lengths.sum() == 3 * 834
    assert not fit_three_rows(lengths, 834)
    bound, optimum = fewest_packs(lengths, 834, None, 60)
    assert bound == 3
    assert optimum is None


def test_the_optimum_of_sets_with_a_kernel_is_known():
    for is_irup, over in ((True, 0), (False, 1)):
        smallest, *_ = irup(is_irup)(np.random.default_rng(0), 1)
        positions = smallest.lengths.sum()
        assert smallest.optimum == positions / smallest.row + over
        plan = plan_packs(smallest.lengths, smallest.row)
        assert plan.lower_bound <= smallest.optimum <= plan.num_packs
