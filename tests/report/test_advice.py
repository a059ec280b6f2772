# SPDX-License-Identifier: Apache-2.0
"""Advice rests on numbers that follow from the lengths."""

from __future__ import annotations

import dataclasses

import numpy as np

from megatron_packing import STRATEGIES, plan_packs
from megatron_packing.flops.models import MODELS
from megatron_packing.planning.rows import rows_of_plan
from megatron_packing.report.advice import advise
from megatron_packing.report.compare import Comparison, measure
from megatron_packing.report.simulate import Simulation
from megatron_packing.simulate.choose import choose_costs
from megatron_packing.simulate.epoch import predict_epoch
from megatron_packing.simulate.hardware import DEVICES


def compared(lengths, row, batch=64):
    plans = {name: plan_packs(lengths, row, strategy=name, overlong="split") for name in STRATEGIES}
    return Comparison(
        source="some",
        sequence_length=row,
        global_batch_size=batch,
        model=MODELS["8b"],
        num_documents=len(lengths),
        num_positions=int(lengths.sum()),
        num_documents_dropped=0,
        num_documents_truncated=0,
        num_documents_empty=0,
        num_positions_lost=0,
        plans=tuple(measure(plan, lengths, name, 0.0) for name, plan in plans.items()),
    )


def simulated(lengths, row, batch=64, **sizes):
    costs = choose_costs(
        MODELS["8b"],
        DEVICES["h100"],
        gpus=32,
        sequence_length=row,
        global_batch_size=batch,
        **sizes,
    )
    rows = rows_of_plan(plan_packs(lengths, row, overlong="split"), lengths)
    epochs = [
        predict_epoch(
            way, rows, costs, global_batch_size=batch, most_steps=4, seed=0, dealing=dealing
        )
        for way, dealing in (("optimal", "random"), ("optimal, balanced", "balanced"))
    ]
    return Simulation(
        source="some",
        sequence_length=row,
        alignment=2 * costs.layout.context if costs.layout.context > 1 else 1,
        global_batch_size=batch,
        num_documents=len(lengths),
        num_positions=int(lengths.sum()),
        costs=costs,
        epochs=tuple(epochs),
    )


def by_topic(advice):
    return {one.topic: one for one in advice}


def test_halves_of_rows_are_packed_in_pairs_with_half_the_batch():
    lengths = np.full(1000, 512)
    advice = by_topic(advise(compared(lengths, 1024), lengths))
    assert advice["strategy"].text == "--strategy optimal"
    assert "500 rows instead of 1,000 padded and 500 of greedy" in advice["strategy"].because
    assert "about 32 packs" in advice["batch"].text
    assert "2.00 documents in a pack" in advice["batch"].because
    assert "up to 1.41 times" in advice["learning rate"].text
    assert advice["sequence length"].text == "1,024 is long enough"
    assert "balance" not in advice


def test_full_rows_are_not_worth_packing():
    lengths = np.full(100, 1000)
    advice = by_topic(advise(compared(lengths, 1024), lengths))
    assert "packing does not pay" in advice["strategy"].text
    assert "100 padded rows, 100 packed ones" in advice["strategy"].because


def test_rows_that_cut_many_positions_are_to_be_longer():
    lengths = np.concatenate([np.full(90, 100), np.full(10, 5000)])
    advice = by_topic(advise(compared(lengths, 1024), lengths))
    assert "try longer rows: 8,192" in advice["sequence length"].text
    assert "10 of 100 documents, with 84.7% of all positions" in advice["sequence length"].because


def test_the_padding_of_alignments_is_counted():
    lengths = np.array([1, 4, 5, 8])
    because = by_topic(advise(compared(lengths, 64), lengths))["alignment"].because
    # 3 + 0 + 3 + 0 of 18; 7 + 4 + 3 + 0; 15 + 12 + 11 + 8; 63 + 60 + 59 + 56
    assert because.endswith("4: 33.3%, 8: 77.8%, 16: 255.6%, 64: 1322.2%")


def test_balance_and_context_parallelism_follow_the_prediction():
    random = np.random.default_rng(0)
    uneven = np.clip(random.lognormal(7, 1.6, 20_000), 1, 65_536).astype(np.int64)
    simulation = simulated(uneven, 65_536, context=2)
    advice = by_topic(advise(compared(uneven, 65_536), uneven, simulation=simulation))
    assert advice["balance"].text == "--packing-balance"
    slowest = simulation.epochs[0].prediction.slowest_rank
    assert f"takes {slowest:.3f} times the mean in turn" in advice["balance"].because
    assert advice["context parallelism"].text.startswith("2 GPUs for a row")
    assert advice["alignment"].text.startswith("--alignment 4,")
    even = np.full(4000, 512)
    simulation = simulated(even, 4096)
    advice = by_topic(advise(compared(even, 4096), even, simulation=simulation))
    assert "hardly matters" in advice["balance"].text
    assert advice["context parallelism"].text == "none is needed for memory"
    other = simulated(even, 8192)
    advice = by_topic(advise(compared(even, 4096), even, simulation=simulation, others=(other,)))
    speeds = [one.epochs[-1].tokens_per_second(4000 * 512) for one in (simulation, other)]
    expected = f"4,096: {speeds[0]:,.0f}, 8,192: {speeds[1]:,.0f}"
    assert advice["sequence length"].because.endswith(expected)


def test_a_limit_of_documents_that_costs_rows_is_named():
    lengths = np.random.default_rng(0).integers(1, 200, 2_000)
    comparison = compared(lengths, 4096)
    (found,) = [
        one
        for one in advise(comparison, lengths, most_documents=4)
        if one.topic == "documents a pack"
    ]
    full = -(-int(lengths.sum()) // 4096)
    assert found.text == "a limit of 4 costs hardly any rows"  # these plans have none
    plans = tuple(
        measure(
            plan_packs(lengths, 4096, strategy=name, overlong="split", max_documents_per_pack=4),
            lengths,
            name,
            0.0,
        )
        for name in STRATEGIES
    )
    limited = dataclasses.replace(comparison, plans=plans)
    (found,) = [
        one for one in advise(limited, lengths, most_documents=4) if one.topic == "documents a pack"
    ]
    assert found.text == "raise the limit of 4, or leave it out"
    assert found.because == f"500 rows; their positions fill {full:,}"
    assert "documents a pack" not in [one.topic for one in advise(limited, lengths)]
