# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing import STRATEGIES, plan_packs
from megatron_packing.planning import rows as rows_module
from megatron_packing.planning.rows import rows_of_plan
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
