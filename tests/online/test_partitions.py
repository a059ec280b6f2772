# SPDX-License-Identifier: Apache-2.0
"""Partitions are what verl and slime expect of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing.online.partitions import get_seqlen_balanced_partitions


@given(
    costs=st.lists(st.integers(0, 10**9), min_size=1, max_size=40),
    partitions=st.integers(1, 8),
    equal_size=st.booleans(),
)
def test_each_document_is_in_one_partition_and_none_is_empty(costs, partitions, equal_size):
    if len(costs) < partitions or (equal_size and len(costs) % partitions):
        with pytest.raises(ValueError, match=r"documents|micro-batch"):
            get_seqlen_balanced_partitions(costs, partitions, equal_size)
        return
    found = get_seqlen_balanced_partitions(costs, partitions, equal_size)
    assert len(found) == partitions
    assert all(part and part == sorted(part) for part in found)
    assert sorted(itertools.chain.from_iterable(found)) == list(range(len(costs)))
    if equal_size:
        assert {len(part) for part in found} == {len(costs) // partitions}


@pytest.mark.parametrize("equal_size", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_sums_are_near_the_best_that_can_be(seed, equal_size):
    """All ways to split eight costs in two, by brute force; the greedy rule is within 7/6 of it."""
    costs = np.random.default_rng(seed).integers(1, 100, 8)
    sizes = [4] if equal_size else range(1, 8)
    best = min(
        max(costs[list(part)].sum(), costs.sum() - costs[list(part)].sum())
        for size in sizes
        for part in itertools.combinations(range(8), size)
    )
    found = get_seqlen_balanced_partitions(costs.tolist(), 2, equal_size)
    assert best <= max(costs[part].sum() for part in found) <= 7 / 6 * best
