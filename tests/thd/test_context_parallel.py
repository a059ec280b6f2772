# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from megatron_packing.thd.context_parallel import causal_chunks, partition_indices  # noqa: E402


def test_the_example_of_transformer_engine_s_own_test():
    # tests/pytorch/attention/test_cp_utils.py, thd_get_partitioned_indices, dual chunks.
    cu_seqlens = torch.tensor([0, 8, 16], dtype=torch.int32)
    assert partition_indices(cu_seqlens, 2, 0).tolist() == [0, 1, 6, 7, 8, 9, 14, 15]
    assert partition_indices(cu_seqlens, 2, 1).tolist() == [2, 3, 4, 5, 10, 11, 12, 13]


@st.composite
def rows(draw):
    size = draw(st.integers(1, 5))
    chunks = draw(st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any))
    lengths = [2 * size * chunk for chunk in chunks]
    return size, lengths


@given(rows())
def test_each_rank_holds_two_chunks_of_each_segment_as_written_out(row):
    size, lengths = row
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    for rank in range(size):
        expected = []
        for start, length in zip(cu_seqlens.tolist(), lengths, strict=False):
            chunks = torch.arange(start, start + length).chunk(2 * size) if length else ()
            for place in (rank, 2 * size - 1 - rank):
                expected += chunks[place].tolist() if length else []
        assert partition_indices(cu_seqlens, size, rank).tolist() == (
            expected if size > 1 else list(range(sum(lengths)))
        )


@given(rows())
def test_each_rank_attends_to_as_many_pairs_as_any_other(row):
    size, lengths = row
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    pairs = []
    for rank in range(size):
        chunks = causal_chunks(cu_seqlens, size, rank)
        assert sum(chunks.num_queries) == sum(lengths) // size
        pairs.append(
            sum(
                queries * keys - queries * (queries - 1) // 2
                for queries, keys in zip(chunks.num_queries, chunks.num_keys, strict=True)
            )
        )
    assert len(set(pairs)) == 1
    assert sum(pairs) == sum(length * (length + 1) // 2 for length in lengths)


def test_a_segment_that_cannot_be_cut_is_named():
    with pytest.raises(ValueError, match="segment 1 has 6 positions, but 2 context-parallel"):
        partition_indices(torch.tensor([0, 8, 14, 16]), 2, 0)
