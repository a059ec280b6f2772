# SPDX-License-Identifier: Apache-2.0
"""How long ranks wait, against loops over ranks and micro-batches."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_packing.flops.model import WorkModel
from megatron_packing.planning.rows import Rows
from megatron_packing.simulate.deal import DEALINGS, deal_epoch, dealings_of
from megatron_packing.simulate.waiting import measure_waiting
from megatron_packing.stream.order import pack_at

ROW = 64
MODEL = WorkModel(per_token=40, per_squared_length=1)


def make_rows(count: int, seed: int = 0) -> Rows:
    squares = np.random.default_rng(seed).integers(ROW, ROW**2, count)
    full = np.full(count, ROW, np.int64)
    return Rows(positions=full, squares=squares, real_positions=full, documents=full)


def dealt(dealing, rows, ranks, batch, most_steps=10**6, seed=3):
    return deal_epoch(
        dealing,
        rows,
        num_ranks=ranks,
        pipelined=True,
        global_batch_size=batch,
        model=MODEL,
        seed=seed,
        most_steps=most_steps,
    )


@pytest.mark.parametrize("dealing", DEALINGS)
def test_whole_steps_hold_every_row_once(dealing):
    rows = make_rows(16 * 9)
    found = dealt(dealing, rows, ranks=4, batch=16)
    assert found.shape == (9, 4, 4)
    assert sorted(found.ravel().tolist()) == list(range(16 * 9))


def test_ranks_take_turns_in_the_order_of_training():
    rows = make_rows(5 * 24)
    found = dealt("random", rows, ranks=4, batch=24)
    assert found.shape == (5, 4, 6)
    for step, rank, turn in np.ndindex(found.shape):
        assert found[step, rank, turn] == pack_at(step * 24 + turn * 4 + rank, len(rows), 3)


def test_balanced_steps_have_the_rows_of_random_ones():
    rows = make_rows(200)
    plain, balanced = (dealt(name, rows, ranks=4, batch=16) for name in ("random", "balanced"))
    assert (np.sort(plain.reshape(12, -1)) == np.sort(balanced.reshape(12, -1))).all()
    waits = [measure_waiting(rows, one, MODEL).slowest_rank for one in (plain, balanced)]
    assert waits[1] < waits[0]


def test_an_even_order_needs_two_rows_a_rank():
    assert dealings_of(8, 16) == DEALINGS
    assert "even" not in dealings_of(8, 8)


@pytest.mark.parametrize("dealing", DEALINGS)
def test_the_figures_are_those_of_loops(dealing):
    rows = make_rows(330)
    steps = dealt(dealing, rows, ranks=4, batch=32)
    work = [MODEL.per_token * ROW + MODEL.per_squared_length * int(one) for one in rows.squares]
    rank, sync, idle, totals = [], [], [], []
    for step in steps.tolist():
        sums = [sum(work[row] for row in ranks_rows) for ranks_rows in step]
        mean = sum(sums) / len(sums)
        rank.append(max(sums) / mean)
        sync.append(
            sum(max(work[row] for row in meeting) for meeting in zip(*step, strict=True)) / mean
        )
        for meeting in zip(*step, strict=True):
            squares = [int(rows.squares[row]) for row in meeting]
            idle.append(1 - sum(squares) / len(squares) / max(squares))
        totals.append(sum(sums))
    found = measure_waiting(rows, steps, MODEL)
    assert found.slowest_rank == pytest.approx(np.mean(rank))
    assert found.slowest_micro_batch == pytest.approx(np.mean(sync))
    assert found.idle_attention == pytest.approx(np.mean(idle))
    assert found.spread_of_steps == pytest.approx(np.std(totals) / np.mean(totals))
    # Without a pipeline a step ends with its slowest rank.
    slowest = np.mean([one * total for one, total in zip(rank, totals, strict=True)])
    assert found.step_over_equal == pytest.approx(slowest / np.mean(totals))


@pytest.mark.parametrize(("pipeline", "virtual"), [(1, 1), (4, 1), (4, 2)])
def test_nobody_waits_for_equal_rows(pipeline, virtual):
    rows = make_rows(64)
    rows.squares[:] = 1000
    found = measure_waiting(
        rows, dealt("random", rows, 2, 16), MODEL, pipeline=pipeline, virtual=virtual
    )
    assert found.slowest_rank == found.slowest_micro_batch == pytest.approx(1)
    assert found.idle_attention == found.spread_of_steps == pytest.approx(0)
    assert found.step_over_equal == pytest.approx(1)


def test_one_heavy_row_holds_up_a_pipeline_by_its_own_time():
    """Two stages, four micro-batches, one of them of ten times the work, in every place."""
    attention = WorkModel(per_token=0, per_squared_length=1)
    for place in range(4):
        rows = make_rows(4)
        rows.squares[:] = 1
        rows.squares[place] = 10
        found = measure_waiting(rows, np.arange(4)[None, None], attention, pipeline=2)
        # 13 units of work, 6.5 on each stage; equal ones take 13/4/2 * (4 + 1).
        heavy, light, equal = 5.0, 0.5, 13 / 8 * 5
        # The heavy row crosses both stages, forward and back; others can only hide beside it.
        assert found.step_over_equal >= 2 * heavy / equal * (1 - 1e-9)
        assert found.step_over_equal <= (5 * light + 2 * heavy) / equal
