# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from megatron_packing import STRATEGIES, plan_packs
from megatron_packing.flops.model import WorkModel
from megatron_packing.planning import rows as rows_module
from megatron_packing.planning.rows import rows_of_plan
from megatron_packing.simulate.deal import deal_rows
from tests.conftest import chat_like_lengths

ROW = 64


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize("block", [7, 1 << 22])
def test_rows_have_the_work_of_their_segments(strategy, alignment, block, monkeypatch):
    monkeypatch.setattr(rows_module, "_BLOCK_SEGMENTS", block)
    lengths = chat_like_lengths(300, longest=3 * ROW)
    plan = plan_packs(lengths, ROW, strategy=strategy, alignment=alignment, overlong="split")
    masked = rows_of_plan(plan, lengths)
    whole = rows_of_plan(plan, lengths, masked=False)
    for pack in range(plan.num_packs):
        segments = range(plan.pack_offsets[pack], plan.pack_offsets[pack + 1])
        real = taken = squares = 0
        for segment in segments:
            if plan.segment_lengths is None:
                length = int(lengths[plan.document_ids[segment]])
            else:
                length = int(plan.segment_lengths[segment])
            aligned = (length + alignment - 1) // alignment * alignment
            real, taken, squares = real + length, taken + aligned, squares + aligned**2
        assert masked.positions[pack] == ROW
        assert masked.real_positions[pack] == real
        assert masked.squares[pack] == squares + (ROW - taken) ** 2
        assert masked.documents[pack] == len(segments)
        assert whole.squares[pack] == ROW**2
    assert masked.real_positions.sum() == lengths.sum()


def test_ranks_take_turns_and_balance_keeps_the_members_of_each_step():
    lengths = chat_like_lengths(2000, longest=ROW)
    rows = rows_of_plan(plan_packs(lengths, ROW), lengths)
    order = np.random.default_rng(0).permutation(len(rows))[: 5 * 24]
    dealt = deal_rows(rows, order, num_ranks=4, global_batch_size=24)
    assert dealt.shape == (5, 4, 6)
    for step, rank, turn in np.ndindex(dealt.shape):
        assert dealt[step, rank, turn] == order[step * 24 + turn * 4 + rank]
    work = WorkModel(per_token=1, per_squared_length=3)
    balanced = deal_rows(rows, order, num_ranks=4, global_batch_size=24, balance=work)
    assert (np.sort(balanced.reshape(5, -1)) == np.sort(dealt.reshape(5, -1))).all()

    def heaviest(deal):
        return (rows.positions + 3 * rows.squares)[deal].sum(axis=2).max(axis=1)

    assert (heaviest(balanced) <= heaviest(dealt)).all()
    assert heaviest(balanced).sum() < heaviest(dealt).sum()
