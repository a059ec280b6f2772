# SPDX-License-Identifier: Apache-2.0
"""The order of passes, held against Megatron's own tables and its loops."""

from __future__ import annotations

import inspect

import pytest

from megatron_packing.simulate.schedule import Pass, Schedule

SIZES = [
    (stages, chunks, stages * groups)
    for stages in (1, 2, 3, 4, 8)
    for chunks in (1, 2, 3)
    for groups in (1, 2, 5)
    if stages > 1 or chunks == 1
]


@pytest.mark.parametrize(("stages", "chunks", "micro_batches"), SIZES)
def test_a_stage_computes_each_pass_once_and_every_stage_can_begin(stages, chunks, micro_batches):
    schedule = Schedule(stages, chunks, micro_batches)
    possible = list(schedule.in_a_possible_order())
    everything = {
        (stage, Pass(direction, chunk, micro_batch))
        for stage in range(stages)
        for direction in (False, True)
        for chunk in range(chunks)
        for micro_batch in range(micro_batches)
    }
    assert len(possible) == len(everything)
    assert set(possible) == everything
    done = set()
    for stage, one in possible:
        assert schedule.needs(stage, one) in done | {None}
        done.add((stage, one))
    for stage in range(stages):
        assert [one for here, one in possible if here == stage] == schedule.order_of(stage)


@pytest.mark.parametrize(("stages", "chunks", "micro_batches"), SIZES)
def test_the_order_is_that_of_megatrons_own_tables(stages, chunks, micro_batches, monkeypatch):
    pytest.importorskip("megatron.core")
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import schedules

    schedule = Schedule(stages, chunks, micro_batches)
    for stage in range(stages):
        for name, size in {
            "get_pipeline_model_parallel_world_size": stages,
            "get_pipeline_model_parallel_rank": stage,
            "get_virtual_pipeline_model_parallel_world_size": chunks if chunks > 1 else None,
        }.items():
            monkeypatch.setattr(parallel_state, name, lambda size=size: size)
        counts = schedules.get_pp_rank_microbatches
        given = [micro_batches, chunks, stages]
        if "num_model_chunks" not in inspect.signature(counts).parameters:
            given = [micro_batches, chunks]
        _, _, warm_up, remaining = counts(*given, forward_only=False)
        group = stages if chunks > 1 else micro_batches
        table = schedules.get_schedule_table(micro_batches, chunks, group)
        forward = [Pass(False, chunk, number) for number, chunk in table]
        backward = [Pass(True, chunks - 1 - chunk, number) for number, chunk in table]
        expected = forward[:warm_up]
        for number in range(remaining):
            expected += [forward[warm_up + number], backward[number]]
        assert schedule.order_of(stage) == expected + backward[remaining:]


def test_sizes_that_no_schedule_has_are_refused():
    with pytest.raises(ValueError, match="below 1"):
        Schedule(0, 1, 4)
    with pytest.raises(ValueError, match="5 micro-batches are no multiple of 2 stages"):
        Schedule(2, 2, 5)
