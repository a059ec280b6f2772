# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest

from megatron_packing import STRATEGIES, plan_packs
from megatron_packing.planning.rows import rows_of_plan
from megatron_packing.report.randomness import measure_randomness
from megatron_packing.stream.order import pack_at
from tests.conftest import chat_like_lengths

ROW = 256


def measured(lengths, strategy, batch=8):
    plan = plan_packs(lengths, ROW, strategy=strategy, overlong="split")
    rows = rows_of_plan(plan, lengths)
    return plan, rows, measure_randomness(plan, lengths, rows, global_batch_size=batch, seed=3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_figures_are_those_of_pairs_and_steps_counted_one_by_one(strategy):
    lengths = chat_like_lengths(600, longest=2 * ROW)
    plan, rows, found = measured(lengths, strategy)
    pairs = []
    for pack in range(plan.num_packs):
        documents = plan.document_ids[plan.pack_offsets[pack] : plan.pack_offsets[pack + 1]]
        pairs += [pair for pair in itertools.pairwise(documents.tolist()) if pair[0] != pair[1]]
    order = [pack_at(sample, len(rows), 3) for sample in range(len(rows))]
    steps = [order[first : first + 8] for first in range(0, len(order) - 7, 8)]
    documents = np.array([sum(int(rows.documents[pack]) for pack in step) for step in steps])
    positions = np.array([sum(int(rows.real_positions[pack]) for pack in step) for step in steps])
    assert found.documents_spread == pytest.approx(documents.std() / documents.mean())
    assert found.positions_spread == pytest.approx(positions.std() / positions.mean())
    if not pairs:
        assert strategy == "padding"
        assert found.length_correlation is None is found.neighbor_distance
        return
    both_ways = np.log(lengths[np.array(pairs + [(b, a) for a, b in pairs])])
    correlation = np.corrcoef(both_ways.T)[0, 1]
    assert found.length_correlation == pytest.approx(correlation)
    every = [abs(a - b) for a, b in itertools.combinations(range(len(lengths)), 2)]
    distance = np.mean([abs(a - b) for a, b in pairs]) / np.mean(every)
    assert found.neighbor_distance == pytest.approx(distance)


def test_sorting_strategies_put_like_lengths_together_and_random_ones_do_not():
    lengths = chat_like_lengths(4000, longest=ROW)
    assert measured(lengths, "greedy")[2].length_correlation > 0.8
    assert abs(measured(lengths, "random")[2].length_correlation) < 0.1
    for strategy in STRATEGIES[1:]:
        found = measured(lengths, strategy)[2]
        assert abs(found.order_correlation) < 0.15
        assert found.neighbor_distance == pytest.approx(1, abs=0.05)
