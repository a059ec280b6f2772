# SPDX-License-Identifier: Apache-2.0
"""Strategy optimal: its plans, its bounds, and the time that it takes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_packing import plan_packs
from tests.planning.inputs import ROW, WHOLE_DOCUMENTS, hard_lengths, seeds
from tests.planning.reference import (
    as_multiset,
    fewest_rows,
    lengths_of_packs,
)


@given(lengths=st.lists(st.integers(1, ROW), min_size=1, max_size=10), most=st.integers(1, 5))
def test_optimal_reaches_the_brute_force_optimum_on_small_sets(lengths, most):
    plan = plan_packs(np.array(lengths), ROW, max_documents_per_pack=most, effort="high")
    assert plan.lower_bound <= fewest_rows(lengths, ROW, most) <= plan.num_packs
    if most >= len(lengths):
        assert plan.num_packs == fewest_rows(lengths, ROW, most)


@pytest.mark.parametrize("effort", ["default", "high"])
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=60),
    most=st.none() | st.integers(1, 12),
    alignment=st.sampled_from([1, 2, 5]),
    min_packs=st.integers(0, 30),
    multiple=st.integers(1, 4),
    seed=seeds,
)
@settings(max_examples=30)
def test_optimal_is_never_worse_than_a_strategy_that_keeps_documents_whole(
    effort, lengths, most, alignment, min_packs, multiple, seed
):
    limits = {
        "max_documents_per_pack": most,
        "alignment": alignment,
        "min_packs": min_packs,
        "packs_multiple_of": multiple,
        "overlong": "split",
        "seed": seed,
    }
    best = plan_packs(lengths, 100, effort=effort, **limits)
    assert best.lower_bound <= best.num_packs
    for strategy in WHOLE_DOCUMENTS:
        assert best.num_packs <= plan_packs(lengths, 100, strategy=strategy, **limits).num_packs


@given(lengths=st.lists(st.integers(1, ROW), min_size=1, max_size=9))
def test_plans_of_pairs_are_proven(lengths):
    """The bound of every strategy is the fewest packs of at most two documents."""
    for strategy in ("greedy", "optimal"):
        plan = plan_packs(lengths, ROW, strategy=strategy, max_documents_per_pack=2)
        assert plan.lower_bound == fewest_rows(lengths, ROW, 2)
    assert plan.num_packs == plan.lower_bound


@pytest.mark.parametrize(
    ("count", "seed", "packs"),
    [pytest.param(1_000, 1, 453, marks=pytest.mark.long_plan), (1_100, 6, 503)],
)
@pytest.mark.slow
@pytest.mark.one_thread
def test_finer_prices_prove_plans_whose_bound_was_a_pack_too_low(count, seed, packs):
    lengths = np.random.default_rng(seed).integers(8192 // 5, 7 * 8192 // 10, count)
    plan = plan_packs(lengths, 8192)
    assert plan.num_packs == plan.lower_bound == packs


@pytest.mark.parametrize(
    ("median", "spread", "row", "most", "packs"),
    [(5.5, 1.2, 1024, 3, 1212), (6.2, 0.5, 1024, 3, 1559), (6.2, 1.2, 2048, 4, 1115)],
)
@pytest.mark.slow
@pytest.mark.one_thread
def test_plans_with_a_limit_are_proven_that_were_a_pack_from_it(median, spread, row, most, packs):
    """Bounds by few long pieces were too low, and rows were repacked only after dives."""
    lengths = np.random.default_rng(row).lognormal(median, spread, 3_000).astype(int).clip(1, row)
    plan = plan_packs(lengths, row, max_documents_per_pack=most)
    assert plan.num_packs == plan.lower_bound == packs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "most"), [(1024, 2), (1024, 3), (1024, 6), (2048, 4), (2048, 9), (8192, 16)]
)
@pytest.mark.long_plan
def test_optimal_is_near_its_bound_where_the_documents_of_a_pack_are_limited(row, most):
    lengths = np.random.default_rng(most).lognormal(5.5, 1.2, 3_000).astype(int).clip(1, row)
    best = plan_packs(lengths, row, max_documents_per_pack=most)
    shuffled = plan_packs(lengths, row, max_documents_per_pack=most, strategy="first_fit_shuffle")
    assert best.num_packs <= min(shuffled.num_packs, best.lower_bound * 1.003)
    packs = lengths_of_packs(best, lengths)
    assert max(map(len, packs)) <= most
    assert max(map(sum, packs)) <= row
    assert sorted(best.document_ids) == list(range(len(lengths)))


def triplets(count, row, seed):
    """Three times ``count`` lengths in (row/4, row/2) that fill ``count`` rows without a gap."""
    random = np.random.default_rng(seed)
    longest = random.integers(38 * row // 100, 49 * row // 100, count)
    middle = random.integers(row // 4, (row - longest) // 2 + 1)
    return np.concatenate([longest, middle, row - longest - middle])


@pytest.mark.parametrize("seed", [0, 1, 2, 9, 14])  # the last two by lots
def test_triplets_that_fill_their_rows_are_found(seed):
    plan = plan_packs(triplets(20, 1000, seed), 1000)
    assert plan.num_packs == plan.lower_bound == 20


@pytest.mark.parametrize("seed", [3, 11])
def test_lots_find_what_dives_do_not(seed):
    """Lengths as Schwerin and Waescher's: five or six in a row."""
    lengths = np.random.default_rng(seed).integers(150, 201, 100)
    plan = plan_packs(lengths, 1000)
    assert plan.num_packs == plan.lower_bound == 18


@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.long_plan
@pytest.mark.slow
def test_the_bound_of_many_lengths_that_crowd_holds_and_is_nearly_met(most):
    """Of 900 lengths, so of classes of them, whose optimum is known."""
    row, count = 8000, 400
    lengths = triplets(count, row, 0)
    plan = plan_packs(lengths, row, max_documents_per_pack=most)
    assert plan.lower_bound <= count <= plan.num_packs <= count * 1.02
    assert plan.lower_bound >= count * 0.99
    packs = lengths_of_packs(plan, lengths)
    assert max(map(sum, packs)) <= row
    assert sorted(plan.document_ids) == list(range(len(lengths)))


@pytest.mark.parametrize(("row", "count"), [(512, 1000), (2048, 1000), (2048, 300)])
@pytest.mark.one_thread
def test_lengths_between_a_quarter_and_half_of_a_row_are_near_their_bound(row, count):
    lengths = np.random.default_rng(row).integers(row // 4 + 1, row // 2, count)
    plan = plan_packs(lengths, row)
    assert plan.lower_bound <= plan.num_packs <= plan.lower_bound + 2
    assert as_multiset(lengths_of_packs(plan, lengths))


@pytest.mark.parametrize(
    ("row", "count", "over", "longest"),
    [(4096, 20_000, 0, 2047), (8192, 1000, 0, 8192), (131_073, 1000, 1, 131_073)],
)
@pytest.mark.long_plan
def test_many_lengths_between_a_quarter_and_half_of_a_row_meet_their_bound(
    row, count, over, longest
):
    """Packs near those of a small program; long rows in units that do not divide them."""
    lengths = np.random.default_rng(count + row).integers(row // 4 + 1, row // 2, count)
    lengths[0] = longest
    plan = plan_packs(lengths, row)
    assert plan.lower_bound <= plan.num_packs <= plan.lower_bound + over
    packs = lengths_of_packs(plan, lengths)
    assert max(map(sum, packs)) <= row
    assert sorted(plan.document_ids) == list(range(count))


@pytest.mark.long_plan
def test_the_search_by_patterns_looks_at_ctrl_c():
    looks = [time.process_time()]
    lengths = np.random.default_rng(0).integers(2049, 4096, 50_000)
    plan_packs(lengths, 8192, progress=lambda _: looks.append(time.process_time()))
    looks.append(time.process_time())
    between = 0.2  # looks are 100 ms apart, in which two threads work
    assert np.diff(looks).max() < 0.5 * (looks[-1] - looks[0]) + between


@pytest.mark.one_thread
def test_packs_by_price_beat_first_fit_decreasing_by_far_on_a_hard_set():
    row = 1024
    lengths = hard_lengths(row)
    best = plan_packs(lengths, row)
    decreasing = plan_packs(lengths, row, strategy="first_fit_decreasing")
    assert best.num_packs <= best.lower_bound * 1.004
    assert decreasing.num_packs >= best.lower_bound * 1.025
    assert best.lower_bound > decreasing.lower_bound  # prices prove more than L2
    covered = np.bincount(best.document_ids, minlength=len(lengths))
    assert (covered == 1).all()
    assert np.add.reduceat(lengths[best.document_ids], best.pack_offsets[:-1]).max() <= row


@pytest.mark.parametrize("num_short", [pytest.param(100, marks=pytest.mark.long_plan), 2000])
@pytest.mark.one_thread
@pytest.mark.slow
def test_the_bound_by_prices_holds_where_thousands_of_documents_fit_a_row(num_short):
    """Prices of a row's worth of the shortest documents must not overflow their integers."""
    lengths = np.concatenate([hard_lengths(8192)[:3000], np.ones(num_short, int)])
    plan = plan_packs(lengths, 8192)
    alone = plan_packs(lengths[:3000], 8192)
    assert alone.lower_bound <= plan.lower_bound <= plan.num_packs <= alone.num_packs + 1
    few = plan_packs(np.repeat([6, 2, 4], [46, 59, 43]), 283)
    assert few.lower_bound <= few.num_packs == 3


@pytest.mark.parametrize("seed", range(4))
def test_optimal_meets_the_lower_bound_on_chat_like_lengths(seed):
    lengths = np.random.default_rng(seed).lognormal(6.2, 1.0, 50_000).astype(int).clip(1, 4096)
    plan = plan_packs(lengths, 4096)
    assert plan.num_packs == plan.lower_bound == -(-int(lengths.sum()) // 4096)
