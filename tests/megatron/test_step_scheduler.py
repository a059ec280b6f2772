# SPDX-License-Identifier: Apache-2.0
"""Megatron's own schedule of a step takes plans of this package."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("megatron.core")

from megatron.core.datasets import data_schedule

from megatron_packing.errors import InputError
from megatron_packing.megatron.step_scheduler import step_scheduler

LIMIT, CP, DP = 1024, 2, 4
HAS_SCHEDULERS = hasattr(data_schedule, "DpBalancedScheduler")


@pytest.mark.skipif(HAS_SCHEDULERS, reason="this megatron-core has schedulers of a step")
def test_a_release_without_schedulers_is_named():
    with pytest.raises(InputError, match="does not schedule the samples of a step"):
        step_scheduler()


@pytest.mark.skipif(not HAS_SCHEDULERS, reason="no release up to megatron-core 0.19.2 has them")
@pytest.mark.parametrize("group", [None, 3])
def test_samples_are_dealt_as_megatrons_own_scheduler_deals_them_but_evenly(group):
    lengths = np.random.default_rng(0).integers(16, 1500, 200).tolist()
    samples = list(enumerate(lengths))
    own = data_schedule.DpBalancedScheduler(LIMIT, CP, DP, group)
    ours = step_scheduler()(LIMIT, CP, DP, group)
    assert ours.get_required_sample_keys() == own.get_required_sample_keys()
    waits = {}
    for scheduler in (own, ours):
        groups = scheduler.get_groups_and_subsamples(samples)
        assert len(groups) % (group or 1) == 0
        assert {len(ranks) for ranks in groups} == {CP * DP}
        for ranks in groups:
            for first in range(0, CP * DP, CP):
                assert all(ranks[first + i] == ranks[first] for i in range(CP))
        dealt = [ranks[first] for ranks in groups for first in range(0, CP * DP, CP)]
        assert sorted(itertools.chain.from_iterable(dealt)) == list(range(len(lengths)))
        tokens = np.array([sum(lengths[i] for i in batch) for batch in dealt]).reshape(-1, DP)
        assert tokens.max() <= LIMIT * CP
        waits[scheduler] = tokens.max(axis=1).sum() / tokens.mean(axis=1).sum()
    assert waits[ours] < 1.02 < waits[own]
