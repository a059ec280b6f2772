# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing import _core
from megatron_packing.stream.order import pack_at


@given(size=st.integers(1, 500), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(size, key):
    assert sorted(_core.permute(i, size, key) for i in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 5, 1000])
def test_every_place_is_as_likely_for_every_index(size):
    trials = 4000
    images = [_core.permute(size // 2, size, _core.derive_key(7, epoch)) for epoch in range(trials)]
    counts = np.bincount(np.array(images) * min(size, 5) // size, minlength=min(size, 5))
    expected = trials / len(counts)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 25  # under 1 in 20,000 for up to 4 degrees of freedom


def test_large_sizes_stay_in_range():
    size = 2**62 - 57
    images = {_core.permute(i, size, 5) for i in range(1000)}
    assert len(images) == 1000
    assert all(0 <= image < size for image in images)


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_is_refused(index):
    with pytest.raises(IndexError, match=r"outside \[0, 10\)"):
        _core.permute(index, 10, 0)


def test_each_epoch_holds_every_pack_once_in_another_order():
    epochs = [[pack_at(epoch * 20 + i, 20, seed=1) for i in range(20)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
