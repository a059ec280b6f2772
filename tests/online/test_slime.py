# SPDX-License-Identifier: Apache-2.0
"""Schedules keep what slime promises of them."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing.online.slime import build_dp_schedule


def parallel(ranks=2, cp=1, stages=1, group=1):
    return {
        "dp_size": ranks,
        "cp_size": cp,
        "vpp_size": stages,
        "microbatch_group_size_per_vp_stage": group,
    }


@given(
    rollouts=st.lists(
        st.lists(st.integers(1, 1200), min_size=2, max_size=4), min_size=4, max_size=12
    ),
    layout=st.builds(
        parallel, st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2)
    ),
    batch=st.integers(2, 4),
)
def test_every_kept_sample_is_in_one_micro_batch_of_its_step_within_the_limit(
    rollouts, layout, batch
):
    lengths = [length for rollout in rollouts for length in rollout]
    numbers = [number for number, rollout in enumerate(rollouts) for _ in rollout]
    args = SimpleNamespace(use_dynamic_batch_size=True, max_tokens_per_gpu=512)
    multiple = layout["microbatch_group_size_per_vp_stage"] if layout["vpp_size"] > 1 else 1
    try:
        partitions, micro_batches, counts, sizes = build_dp_schedule(
            args, layout, lengths, global_batch_size=batch, rollout_indices=numbers
        )
    except ValueError as error:
        if not re.search("without an empty|may be empty", str(error)):  # too few for the bins
            raise
        return
    limit = 512 * layout["cp_size"]
    assert sizes == [batch] * (len(rollouts) // batch)
    kept = [sample for sample, number in enumerate(numbers) if number < batch * len(sizes)]
    assert sorted(itertools.chain.from_iterable(partitions)) == kept
    assert all(count % multiple == 0 for count in counts)
    for samples, batches in zip(partitions, micro_batches, strict=True):
        assert list(itertools.chain.from_iterable(batches)) == list(range(len(samples)))
        assert len(batches) == sum(counts)
        for places in batches:
            tokens = [lengths[samples[place]] for place in places]
            assert sum(tokens) <= limit or len(tokens) == 1
        ends = itertools.accumulate(counts, initial=0)
        for step, (begin, end) in enumerate(itertools.pairwise(ends)):
            chosen = {numbers[samples[i]] // batch for i in itertools.chain(*batches[begin:end])}
            assert chosen == {step}


def test_micro_batches_have_a_fixed_size_where_batches_are_not_dynamic():
    args = SimpleNamespace(use_dynamic_batch_size=False, micro_batch_size=2)
    lengths = np.random.default_rng(0).integers(1, 500, 16).tolist()
    _, micro_batches, counts, _ = build_dp_schedule(
        args, parallel(2), lengths, global_batch_size=8, rollout_indices=range(16)
    )
    assert counts == [2, 2]
    assert {len(batch) for batches in micro_batches for batch in batches} == {2}


def test_what_does_not_fit_is_said():
    args = SimpleNamespace(use_dynamic_batch_size=False, micro_batch_size=3)
    with pytest.raises(
        ValueError, match="a step has 8 samples, but --micro-batch-size 3 on 2 ranks"
    ):
        build_dp_schedule(args, parallel(2), [5] * 8, global_batch_size=8, rollout_indices=range(8))
    with pytest.raises(ValueError, match="3 rollouts do not fill a step of 8"):
        build_dp_schedule(args, parallel(2), [5] * 3, global_batch_size=8, rollout_indices=range(3))


def test_work_is_even_although_long_samples_cost_more():
    args = SimpleNamespace(use_dynamic_batch_size=True, max_tokens_per_gpu=8192)
    lengths = np.random.default_rng(1).lognormal(6.5, 0.8, 256).astype(int).clip(16, 4096)
    partitions, _, _, _ = build_dp_schedule(
        args,
        parallel(4),
        lengths.tolist(),
        global_batch_size=256,
        rollout_indices=range(256),
        work=(0.0, 1.0),
    )
    work = [(lengths[samples].astype(float) ** 2).sum() for samples in partitions]
    assert max(work) < 1.01 * np.mean(work)
