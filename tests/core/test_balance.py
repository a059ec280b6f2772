# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing import _core, plan_packs


def loads(costs, order, num_ranks) -> np.ndarray:
    """The work of each rank."""
    return np.asarray(costs)[order].reshape(-1, num_ranks).sum(axis=0)


def lowest_maximum(costs: list[int], num_ranks: int) -> int:
    """The load of the heaviest rank in the best of all deals with as many packs for each."""
    if not costs:
        return 0
    first, *others = costs
    best = sum(costs)
    for chosen in combinations(range(len(others)), len(costs) // num_ranks - 1):
        load = first + sum(others[i] for i in chosen)
        if load < best:
            rest = [cost for i, cost in enumerate(others) if i not in chosen]
            best = min(best, max(load, lowest_maximum(rest, max(1, num_ranks - 1))))
    return best


@given(num_ranks=st.integers(1, 9), packs_per_rank=st.integers(0, 9), data=st.data())
def test_a_deal_is_a_permutation_and_no_worse_than_taking_turns(num_ranks, packs_per_rank, data):
    num_packs = num_ranks * packs_per_rank
    costs = data.draw(
        st.lists(st.integers(0, 2**63 // 81 - 1), min_size=num_packs, max_size=num_packs)
    )
    costs = np.array(costs, np.int64)
    order = _core.balance(costs, num_ranks)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(num_packs))
    turns = loads(costs, np.arange(num_packs), num_ranks)
    assert loads(costs, order, num_ranks).max() <= turns.max()
    assert np.array_equal(order, _core.balance(costs, num_ranks))
    by_rank = costs[order].reshape(-1, num_ranks)
    assert (np.diff(by_rank, axis=0) <= 0).all()  # heaviest first


@given(
    shape=st.sampled_from([(2, 2), (3, 2), (4, 2), (2, 3), (2, 4), (3, 3)]),
    costs=st.lists(st.integers(0, 1000), min_size=9, max_size=9),
)
def test_few_packs_are_dealt_almost_as_well_as_can_be(shape, costs):
    num_ranks, packs_per_rank = shape
    costs = costs[: num_ranks * packs_per_rank]
    found = loads(costs, _core.balance(np.array(costs), num_ranks), num_ranks).max()
    best = lowest_maximum(costs, num_ranks)
    if packs_per_rank == 2:
        assert found == best  # heaviest with lightest is the best there is
    assert found <= 4 / 3 * best


def test_a_rank_with_a_heavy_pack_gets_light_ones():
    order = _core.balance(np.array([3, 3, 1, 9, 1, 3, 3, 1]), 2)
    assert order.tolist() == [3, 0, 2, 1, 4, 5, 7, 6]


@pytest.mark.parametrize("sequence_length", [8192, 131072])
def test_many_packs_leave_next_to_nothing_uneven(sequence_length):
    lengths = np.random.default_rng(0).lognormal(7.0, 1.6, 250_000).astype(np.int64)
    lengths = lengths.clip(1, sequence_length)
    plan = plan_packs(lengths, sequence_length, strategy="first_fit_decreasing")
    squares = np.square(lengths[plan.document_ids])
    costs = np.add.reduceat(squares, plan.pack_offsets[:-1])
    batches = costs[: len(costs) // 256 * 256].reshape(-1, 256)
    assert len(batches) > 25
    work = np.array([loads(batch, _core.balance(batch, 16), 16) for batch in batches])
    assert np.mean(work.max(axis=1) / work.mean(axis=1)) < 1.0005


@pytest.mark.parametrize(
    ("costs", "num_ranks", "error", "message"),
    [
        ([1, 2, 3], 2, ValueError, "3 packs cannot be dealt to 2 ranks"),
        ([1], 2, ValueError, "1 pack cannot be dealt to 2 ranks"),
        ([1, 2], 0, ValueError, "num_ranks is 0"),
        ([1, -2], 2, ValueError, r"costs\[1\] is -2"),
        ([2**62, 2**62], 2, OverflowError, "more than 2\\^63 - 1"),
        ([[1, 2]], 2, ValueError, "costs has 2 dimensions"),
        ([1.0, 2.0], 2, TypeError, "incompatible function arguments"),
    ],
)
def test_costs_that_cannot_be_dealt_are_refused(costs, num_ranks, error, message):
    with pytest.raises(error, match=message):
        _core.balance(np.array(costs), num_ranks)
