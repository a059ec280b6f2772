# SPDX-License-Identifier: Apache-2.0
"""The core's linear program, and the bound that it gives, against HiGHS."""

from __future__ import annotations

import math

import highspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_packing import _core, plan_packs

ROUNDING = 1e-9


def cover_with_highs(matrix, demand) -> float:
    """The least sum(x) + sum(u) with ``matrix @ x + u >= demand`` and x, u >= 0."""
    matrix = np.hstack([matrix, np.eye(len(demand))])
    num_columns = matrix.shape[1]
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = num_columns, len(demand)
    program.col_cost_ = np.ones(num_columns)
    program.col_lower_ = np.zeros(num_columns)
    program.col_upper_ = np.full(num_columns, highspy.kHighsInf)
    program.row_lower_ = np.asarray(demand, float)
    program.row_upper_ = np.full(len(demand), highspy.kHighsInf)
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.arange(len(demand) + 1) * num_columns
    program.a_matrix_.index_ = np.tile(np.arange(num_columns), len(demand))
    program.a_matrix_.value_ = matrix.ravel()
    solver = highspy.Highs()
    for name, value in {
        "output_flag": False,
        "solver": "simplex",
        "primal_feasibility_tolerance": 1e-10,
        "dual_feasibility_tolerance": 1e-10,
    }.items():
        assert solver.setOptionValue(name, value) == highspy.HighsStatus.kOk
    assert solver.passModel(program) == highspy.HighsStatus.kOk
    assert solver.run() == highspy.HighsStatus.kOk
    assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    solution = np.array(solver.getSolution().col_value)
    assert (solution >= -ROUNDING).all()
    assert (matrix @ solution >= np.asarray(demand) - ROUNDING * max(demand)).all()
    return float(solver.getInfo().objective_function_value)


def add_columns(program, matrix) -> None:
    for column in matrix.T:
        rows = np.flatnonzero(column)
        program.add_column(rows, column[rows])


def assert_optimal(prices, matrix, demand) -> None:
    """Prices that cost no column more than 1, and the demand as much as covering it costs."""
    assert (prices >= -ROUNDING).all()
    assert (prices <= 1 + ROUNDING).all()
    assert (prices @ matrix <= 1 + ROUNDING).all()
    assert prices @ demand == pytest.approx(cover_with_highs(matrix, demand), rel=ROUNDING)


@st.composite
def programs(draw):
    """Columns as of packs (few entries, whole or split over two rows) and a demand."""
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(0, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    matrix = random.integers(0, draw(st.sampled_from([2, 5, 50])), (rows, columns)).astype(float)
    matrix *= random.random((rows, columns)) < draw(st.sampled_from([0.2, 0.6, 1.0]))
    if draw(st.booleans()):
        matrix *= random.integers(1, 64, (rows, columns)) / 64
    demand = random.integers(0, draw(st.sampled_from([2, 100, 100_000])), rows).astype(float)
    return matrix, demand


@given(programs())
def test_the_optimum_is_that_of_highs(program):
    matrix, demand = program
    ours = _core.CoveringProgram(len(demand))
    add_columns(ours, matrix)
    ours.start(demand)
    assert_optimal(ours.solve(), matrix, demand)


@given(programs(), st.integers(1, 6))
def test_columns_may_be_added_between_solutions_and_demands_may_change(program, parts):
    matrix, demand = program
    ours = _core.CoveringProgram(len(demand))
    ours.start(demand)
    known = np.zeros((len(demand), 0))
    for part in np.array_split(matrix, parts, axis=1):
        add_columns(ours, part)
        known = np.hstack([known, part])
        assert_optimal(ours.solve(), known, demand)
    ours.start(demand[::-1].copy())
    assert_optimal(ours.solve(), matrix, demand[::-1])


def patterns(lengths, row, most) -> np.ndarray:
    """Every pack of a row, of at most ``most`` of these lengths, that takes no more."""
    found = []

    def extend(counts, room, places, at):
        if at == len(lengths):
            if room < min(lengths) or places == 0:
                found.append(counts)
            return
        for count in range(min(places, room // lengths[at]) + 1):
            extend([*counts, count], room - count * lengths[at], places - count, at + 1)

    extend([], row, most, 0)
    return np.array(found, float).T


@given(
    counts=st.dictionaries(st.integers(8, 60), st.integers(1, 40), min_size=1, max_size=6),
    row=st.sampled_from([60, 61, 64]),
    most=st.integers(1, 8),
)
@settings(max_examples=50)
def test_the_bound_of_optimal_plans_is_that_of_gilmore_and_gomory(counts, row, most):
    """The fewest packs in fractions, rounded up, over every pack that there can be."""
    lengths = sorted(counts)
    columns = patterns(lengths, row, most)
    fractional = cover_with_highs(columns, [counts[length] for length in lengths])
    lengths = np.repeat(lengths, [counts[length] for length in lengths])
    plan = plan_packs(lengths, row, max_documents_per_pack=most)
    assert plan.lower_bound == math.ceil(fractional - 1e-6)


def test_columns_and_demands_of_the_wrong_shape_are_refused():
    program = _core.CoveringProgram(2)
    with pytest.raises(IndexError, match="row 2 is not in the program"):
        program.add_column(np.array([0, 2]), np.ones(2))
    with pytest.raises(ValueError, match="of one length"):
        program.add_column(np.array([0, 1]), np.ones(1))
    with pytest.raises(ValueError, match="a number for each row"):
        program.start(np.ones(3))
