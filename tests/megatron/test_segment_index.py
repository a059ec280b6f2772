# SPDX-License-Identifier: Apache-2.0
"""The segments' numbers that Mamba layers get."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

pytest.importorskip("megatron.core")

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_packing.megatron.segment_index import segment_index
from megatron_packing.thd.layout import place


def by_hand(cu_seqlens: list[int], positions: int) -> list[int]:
    """How many segments end at or before each position."""
    return [sum(end <= position for end in cu_seqlens[1:]) for position in range(positions)]


@pytest.mark.parametrize(
    ("cu_seqlens", "positions"),
    [
        ([0, 5, 7, 11], 16),  # the example in Megatron: the tail is a segment of its own
        ([0, 5, 7, 16, 16, 16], 16),
        ([0, 5, 5, 7, 16], 16),
        ([0, 16], 16),
        ([0, 1, 2, 3], 3),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_positions_have_the_number_of_their_segment(cu_seqlens, positions, dtype):
    found = segment_index(torch.tensor(cu_seqlens, dtype=dtype), positions)
    assert found.dtype == torch.int32
    assert found.tolist() == [by_hand(cu_seqlens, positions)]


def test_numbers_are_those_of_megatron():
    if "seq_idx" not in {field.name for field in fields(PackedSeqParams)}:
        pytest.skip("this release computes them in its Mamba layers")
    generator = np.random.default_rng(0)
    for _ in range(200):
        row = 8 * int(generator.integers(8, 40))
        count = int(generator.integers(1, 9))
        lengths = generator.integers(1, row // count, count, endpoint=True)
        alignment = int(generator.choice([1, 4, 8]))
        lengths = lengths[np.cumsum(-(-lengths // alignment) * alignment) <= row]
        cu_seqlens = torch.from_numpy(place(lengths, row, 12, alignment=alignment).cu_seqlens)
        theirs = PackedSeqParams(cu_seqlens_q=cu_seqlens, total_tokens=row).seq_idx
        ours = segment_index(cu_seqlens, row)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
