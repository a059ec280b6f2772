from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing import plan_packs
from megatron_packing.index.pack_index import Segments
from megatron_packing.thd.layout import bucket_max_seqlen, lay_out
from tests.conftest import chat_like_lengths, write_corpus
from tests.index.reference import segments_of

ROW = 64
WIDTH = 40


def segments(*rows: tuple[int, int, int]) -> Segments:
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return Segments(*columns)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    lengths = chat_like_lengths(100, longest=200)
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus", lengths)


def test_a_row_written_out_by_hand(tmp_path):
    corpus = write_corpus(tmp_path / "small", [4, 3])
    a, b = corpus.tokens(0).tolist(), corpus.tokens(1).tolist()
    mask_a, mask_b = corpus.loss_mask(0).tolist(), corpus.loss_mask(1).tolist()
    layout = lay_out(corpus, segments((1, 0, 2), (0, 0, 3)), 8, 6, pad_token=7)
    assert layout.tokens.tolist() == [b[0], b[1], a[0], a[1], a[2], 7, 7, 7]
    assert layout.labels.tolist() == [b[1], b[2], a[1], a[2], a[3], 7, 7, 7]
    assert layout.loss_mask.tolist() == [*mask_b[1:], *mask_a[1:], 0, 0, 0]
    assert layout.position_ids.tolist() == [0, 1, 0, 1, 2, 0, 1, 2]
    assert layout.cu_seqlens.tolist() == [0, 2, 5, 8, 8, 8]


def test_every_position_of_every_document_is_laid_out_with_its_own_label(corpus):
    positions = np.asarray(corpus.num_tokens) - 1
    plan = plan_packs(positions, ROW, overlong="split", seed=4)
    trained = 0.0
    for pack in segments_of(plan, positions):
        layout = lay_out(corpus, segments(*pack), ROW, WIDTH, pad_token=0)
        cu_seqlens = layout.cu_seqlens.tolist()
        for (document, start, length), row in zip(pack, cu_seqlens, strict=False):
            here = slice(row, row + length)
            tokens = corpus.tokens(document)[start : start + length + 1]
            assert layout.tokens[here].tolist() == tokens[:-1].tolist()
            assert layout.labels[here].tolist() == tokens[1:].tolist()
            assert layout.position_ids[here].tolist() == list(range(length))
        trained += layout.loss_mask.sum()
        filled = sum(length for _, _, length in pack)
        assert cu_seqlens[len(pack)] == filled
        assert set(cu_seqlens[len(pack) + 1 :]) == {ROW}
        assert layout.loss_mask[filled:].sum() == 0
    expected = sum(int(corpus.loss_mask(i)[1:].sum()) for i in range(len(corpus)))
    assert trained == expected > 0


def test_an_empty_pack_is_all_tail(corpus):
    layout = lay_out(corpus, segments(), ROW, 3, pad_token=9)
    assert layout.tokens.tolist() == [9] * ROW
    assert layout.loss_mask.sum() == 0
    assert layout.cu_seqlens.tolist() == [0, ROW, ROW]
    assert layout.max_seqlen == ROW


def test_dtypes_are_those_that_megatron_takes(corpus):
    layout = lay_out(corpus, segments((0, 0, 1)), ROW, WIDTH, pad_token=0)
    assert layout.tokens.dtype == layout.labels.dtype == layout.position_ids.dtype == np.int64
    assert layout.loss_mask.dtype == np.float32
    assert layout.cu_seqlens.dtype == np.int32
    assert len(layout.cu_seqlens) == WIDTH


def test_what_does_not_fit_is_refused(corpus):
    with pytest.raises(ValueError, match="66 positions in a row of 64"):
        lay_out(corpus, Segments(*np.array([[0], [0], [66]])), ROW, WIDTH, pad_token=0)
    with pytest.raises(ValueError, match="2 segments do not fit in a cu_seqlens of 3"):
        lay_out(corpus, segments((0, 0, 1), (1, 0, 1)), ROW, 3, pad_token=0)


@given(row=st.integers(2, 10_000), share=st.floats(0, 1))
def test_max_seqlen_covers_the_longest_and_takes_few_values(row, share):
    longest = max(1, round(row * share))
    bucket = bucket_max_seqlen(longest, row)
    assert longest <= bucket <= row
    assert (bucket == row) == (longest == row)


def test_max_seqlen_takes_at_most_nine_values():
    assert len({bucket_max_seqlen(longest, 4096) for longest in range(1, 4097)}) <= 9
