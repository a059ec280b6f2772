# SPDX-License-Identifier: Apache-2.0
"""Bins keep what NeMo-RL asks of a packer."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing.online.nemo_rl import StepPacker


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=40),
    least=st.none() | st.integers(0, 8),
    multiple=st.none() | st.integers(1, 4),
)
def test_each_sequence_is_in_one_bin_and_their_number_is_as_asked(lengths, least, multiple):
    try:
        bins = StepPacker(100, min_bin_count=least, bin_count_multiple=multiple).pack(lengths)
    except ValueError as error:
        if not re.search("without an empty|may be empty", str(error)):  # too few for the bins
            raise
        return
    assert sorted(itertools.chain.from_iterable(bins)) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in found) <= 100 for found in bins)
    assert len(bins) >= (least or 0)
    assert len(bins) % (multiple or 1) == 0


def test_bins_that_ranks_run_at_the_same_time_cost_the_same():
    lengths = np.random.default_rng(1).lognormal(6.5, 0.8, 256).astype(int).clip(16, 4096)
    packer = StepPacker(8192, min_bin_count=4, bin_count_multiple=4, work=(24_576, 1))
    work = [
        sum((24_576.0 + lengths[i]) * lengths[i] for i in found) for found in packer.pack(lengths)
    ]
    by_time = np.array(work).reshape(-1, 4)
    assert by_time.max(axis=1).sum() < 1.02 * by_time.mean(axis=1).sum()


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="collect_metrics is True"):
        StepPacker(8, collect_metrics=True)
    with pytest.raises(ValueError, match="min_bin_count is -1"):
        StepPacker(8, min_bin_count=-1)
    with pytest.raises(ValueError, match="bin_count_multiple is 0"):
        StepPacker(8, bin_count_multiple=0)
    with pytest.raises(ValueError, match="9"):
        StepPacker(8).pack([9])
