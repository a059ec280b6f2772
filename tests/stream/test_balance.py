# SPDX-License-Identifier: Apache-2.0
"""How a batch is dealt to ranks and micro-batches."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_packing.simulate.play import play
from megatron_packing.simulate.schedule import Schedule
from megatron_packing.stream.balance import balance_batch, light_at_both_ends


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("count", range(1, 14))
def test_the_heaviest_stand_in_the_middle(count, together):
    found = light_at_both_ends(count, together=together)
    assert sorted(found) == list(range(count))
    top = found.index(0)
    for side in (found[: top + 1][::-1], found[top:]):  # from the heaviest to an end
        assert side == sorted(side)
    for first in range(0, count, together):
        places = [found.index(number) for number in range(first, min(first + together, count))]
        assert max(places) - min(places) == len(places) - 1


def test_ranks_and_micro_batches_keep_their_packs():
    work = np.random.default_rng(0).integers(1, 10**6, 48)
    found = balance_batch(work, 4, pipelined=True).reshape(-1, 4)
    heaviest_first = balance_batch(work, 4, pipelined=False).reshape(-1, 4)
    assert (np.diff(work[heaviest_first], axis=0) <= 0).all()
    assert sorted(map(tuple, found)) == sorted(map(tuple, heaviest_first))


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_a_pipeline_ends_sooner_than_with_the_heaviest_first(stages):
    """The mean of 200 steps of 16 micro-batches whose work is lognormal, on one rank."""
    work = np.sort(np.random.default_rng(1).lognormal(0, 1, (200, 16)), axis=1)[:, ::-1]

    def seconds(order: list[int]) -> float:
        passes = np.repeat(work[:, order][:, None, None, :], stages, axis=1)
        return play(Schedule(stages, 1, 16), passes / 3, passes * 2 / 3).seconds.mean()

    assert seconds(light_at_both_ends(16)) < 0.97 * seconds(list(range(16)))
