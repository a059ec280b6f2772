# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.thd.alignment import row_multiple, segment_alignment


@pytest.mark.parametrize(("ranks", "alignment"), [(1, 1), (2, 4), (8, 16)])
def test_segments_are_cut_into_two_chunks_a_rank(ranks, alignment):
    assert segment_alignment(ranks) == alignment


@pytest.mark.parametrize(
    ("run", "multiple"),
    [
        ({}, 1),
        ({"context_parallel_size": 2}, 4),
        ({"tensor_model_parallel_size": 8}, 1),
        ({"tensor_model_parallel_size": 8, "sequence_parallel": True}, 8),
        (
            {
                "context_parallel_size": 2,
                "tensor_model_parallel_size": 8,
                "sequence_parallel": True,
            },
            16,
        ),
        ({"fp8_recipe": "delayed"}, 16),
        ({"fp8_recipe": "mxfp8", "context_parallel_size": 2}, 64),
        (
            {
                "fp8_recipe": "blockwise",
                "tensor_model_parallel_size": 2,
                "sequence_parallel": True,
                "context_parallel_size": 3,
            },
            768,
        ),
    ],
)
def test_a_row_is_cut_evenly_and_its_parts_fit_fp8(run, multiple):
    assert row_multiple(**run) == multiple
