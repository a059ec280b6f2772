# SPDX-License-Identifier: Apache-2.0
"""Batches whose size grows are those that a loop over steps makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing.stream.batch_sizes import BatchSizes

SIZES = st.integers(1, 12)


@st.composite
def schedules(draw):
    thresholds = draw(st.lists(st.integers(1, 120), unique=True, max_size=5))
    return [(threshold, draw(SIZES)) for threshold in [0, *sorted(thresholds)]]


def size_at(schedule, sample):
    return [size for threshold, size in schedule if threshold <= sample][-1]


@given(schedules(), st.integers(0, 150))
def test_each_batch_has_the_size_that_holds_for_its_first_sample(schedule, first_sample):
    batches = BatchSizes(schedule, first_sample)
    start, used = first_sample, []
    while start < first_sample + 200:
        batch = range(start, start + size_at(schedule, start))
        used.append(len(batch))
        assert {batches.batch_of(sample) for sample in batch} == {batch}
        start = batch.stop
    runs = [size for size, before in zip(used, [None, *used], strict=False) if size != before]
    assert batches.sizes[: len(runs)] == runs
    before = range(first_sample - used[0], first_sample)
    assert {batches.batch_of(sample) for sample in before} == {before}


@given(schedules(), st.integers(0, 30))
def test_a_run_that_resumes_has_the_same_batches(schedule, steps):
    batches = BatchSizes(schedule)
    start = 0
    for _ in range(steps):
        start = batches.batch_of(start).stop
    resumed = BatchSizes(schedule, start)
    for sample in range(start, start + 150):
        assert resumed.batch_of(sample) == batches.batch_of(sample)


@pytest.mark.parametrize("schedule", [[], [(1, 4)], [(0, 4), (8, 0)]])
def test_what_is_no_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match="no schedule of batch sizes from sample 0 on"):
        BatchSizes(schedule)
