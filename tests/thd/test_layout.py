# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing import plan_packs
from megatron_packing.index.pack_index import Segments
from megatron_packing.thd.layout import lay_out, place
from tests.conftest import chat_like_lengths, write_corpus
from tests.planning.reference import segments_of

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
    pack = segments((1, 0, 2), (0, 0, 3))
    placement = place(pack.lengths, 8, 6)
    layout = lay_out(corpus, pack, placement, pad_token=7)
    assert layout.tokens.tolist() == [b[0], b[1], a[0], a[1], a[2], 7, 7, 7]
    assert layout.labels.tolist() == [b[1], b[2], a[1], a[2], a[3], 7, 7, 7]
    assert layout.loss_mask.tolist() == [*mask_b[1:], *mask_a[1:], 0, 0, 0]
    assert placement.position_ids().tolist() == [0, 1, 0, 1, 2, 0, 1, 2]
    assert placement.position_ids("continue").tolist() == list(range(8))
    assert placement.cu_seqlens.tolist() == [0, 2, 5, 6, 7, 8]  # the tail in three
    assert placement.real_lengths.tolist() == [2, 3, 0, 0, 0]
    assert placement.padding_mask().tolist() == [False] * 5 + [True] * 3


def test_an_aligned_row_written_out_by_hand(tmp_path):
    corpus = write_corpus(tmp_path / "small", [4, 3])
    a, b = corpus.tokens(0).tolist(), corpus.tokens(1).tolist()
    mask_a, mask_b = corpus.loss_mask(0).tolist(), corpus.loss_mask(1).tolist()
    pack = segments((1, 0, 2), (0, 0, 3))
    placement = place(pack.lengths, 16, 4, alignment=4)
    layout = lay_out(corpus, pack, placement, pad_token=7)
    assert layout.tokens.tolist() == [b[0], b[1], 7, 7, a[0], a[1], a[2], 7] + [7] * 8
    assert layout.labels.tolist() == [b[1], b[2], 7, 7, a[1], a[2], a[3], 7] + [7] * 8
    assert layout.loss_mask.tolist() == [*mask_b[1:], 0, 0, *mask_a[1:], 0] + [0] * 8
    assert placement.position_ids().tolist() == [0, 1, 2, 3] * 2 + list(range(8))
    assert placement.cu_seqlens.tolist() == [0, 4, 8, 16]
    assert placement.real_lengths.tolist() == [2, 3, 0]
    assert placement.padding_mask().tolist() == [
        *(False, False, True, True),
        *(False, False, False, True),
        *[True] * 8,
    ]


def test_documents_that_see_each_other_stand_side_by_side_in_one_stretch(tmp_path):
    corpus = write_corpus(tmp_path / "small", [4, 3])
    a, b = corpus.tokens(0).tolist(), corpus.tokens(1).tolist()
    pack = segments((1, 0, 2), (0, 0, 3))
    placement = place(pack.lengths, 16, 4, alignment=4, attention="pack")
    assert placement.cu_seqlens.tolist() == [0, 8, 12, 16]
    assert placement.real_lengths.tolist() == [5, 0, 0]
    assert placement.starts.tolist() == [0, 2]
    assert placement.position_ids("restart").tolist() == [0, 1, 0, 1, 2, 3, 4, 5, *range(8)]
    assert placement.padding_mask().tolist() == [False] * 5 + [True] * 11
    layout = lay_out(corpus, pack, placement, pad_token=7)
    assert layout.tokens.tolist() == [*b[:2], *a[:3]] + [7] * 11


@given(
    lengths=st.lists(st.integers(1, 30), max_size=8),
    alignment=st.sampled_from([1, 2, 4, 8, 16]),
    attention=st.sampled_from(["document", "pack"]),
)
def test_no_real_position_sees_a_pad(lengths, alignment, attention):
    aligned = sum(-(-length // alignment) * alignment for length in lengths)
    row = -(-aligned // 16) * 16 + 16
    placement = place(
        np.array(lengths, np.int64), row, len(lengths) + 2, alignment=alignment, attention=attention
    )
    is_pad = placement.padding_mask()
    assert (~is_pad).sum() == sum(lengths)
    stretches = [slice(*ends) for ends in pairwise(placement.cu_seqlens.tolist())]
    seen = {
        position: set(range(here.start, position + 1))
        for here in stretches
        for position in range(here.start, here.stop)
    }
    for position in np.flatnonzero(~is_pad).tolist():
        assert not is_pad[sorted(seen[position])].any()
    # What a document of the pack sees of the others is what attention asks for.
    starts = placement.starts.tolist()
    for start, length in zip(starts, lengths, strict=True):
        first = min(seen[start + length - 1])
        assert first == (0 if attention == "pack" else start)
    assert all(not (stretch.stop - stretch.start) % alignment for stretch in stretches)


def test_every_position_of_every_document_is_laid_out_with_its_own_label(corpus):
    positions = np.asarray(corpus.num_tokens) - 1
    plan = plan_packs(positions, ROW, overlong="split", alignment=4, seed=4)
    trained = 0.0
    for pack in segments_of(plan, positions):
        placement = place(segments(*pack).lengths, ROW, WIDTH, alignment=4)
        layout = lay_out(corpus, segments(*pack), placement, pad_token=0)
        position_ids = placement.position_ids()
        padding = np.ones(ROW, bool)
        for (document, start, length), row in zip(pack, placement.cu_seqlens, strict=False):
            here = slice(row, row + length)
            tokens = corpus.tokens(document)[start : start + length + 1]
            assert layout.tokens[here].tolist() == tokens[:-1].tolist()
            assert layout.labels[here].tolist() == tokens[1:].tolist()
            assert position_ids[here].tolist() == list(range(length))
            padding[here] = False
        trained += layout.loss_mask.sum()
        assert layout.loss_mask[padding].sum() == 0
        assert placement.padding_mask().tolist() == padding.tolist()
    expected = sum(int(corpus.loss_mask(i)[1:].sum()) for i in range(len(corpus)))
    assert trained == expected > 0


@given(
    lengths=st.lists(st.integers(1, 30), max_size=8),
    alignment=st.sampled_from([1, 2, 4, 8, 16]),
    spare=st.integers(2, 9),
)
def test_cu_seqlens_covers_the_row_in_aligned_lengths(lengths, alignment, spare):
    lengths = np.array(lengths, np.int64)
    aligned = (-(-lengths // alignment) * alignment).tolist()
    row = -(-max(sum(aligned), 1) // 16) * 16 + 32
    placement = place(lengths, row, len(lengths) + spare, alignment=alignment)
    cu_seqlens = placement.cu_seqlens.tolist()
    assert len(cu_seqlens) == len(lengths) + spare
    assert cu_seqlens[0] == 0
    assert cu_seqlens[-1] == row
    between = np.diff(placement.cu_seqlens)
    assert between[: len(lengths)].tolist() == aligned
    tail = between[len(lengths) :]
    assert (between >= 0).all()
    assert (between % alignment == 0).all()
    # No shorter parts of the tail would do with what entries there are.
    assert tail.max() < (row - sum(aligned)) / (spare - 1) + alignment
    assert placement.real_lengths.tolist() == [*lengths, *[0] * (spare - 1)]


def test_an_empty_pack_is_all_tail(corpus):
    placement = place(segments().lengths, ROW, 3)
    layout = lay_out(corpus, segments(), placement, pad_token=9)
    assert layout.tokens.tolist() == [9] * ROW
    assert layout.loss_mask.sum() == 0
    assert placement.cu_seqlens.tolist() == [0, ROW // 2, ROW]
    assert placement.padding_mask().all()
    pack = place(segments().lengths, ROW, 3, attention="pack")
    assert pack.cu_seqlens.tolist() == [0, ROW // 2, ROW]


def test_dtypes_are_those_that_megatron_takes(corpus):
    placement = place(np.array([1]), ROW, WIDTH)
    layout = lay_out(corpus, segments((0, 0, 1)), placement, pad_token=0)
    assert layout.tokens.dtype == layout.labels.dtype == np.int64
    assert placement.position_ids().dtype == np.int64
    assert placement.cu_seqlens.dtype == placement.real_lengths.dtype == np.int32


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="needs 66 positions, but the row has 64"):
        place(np.array([66]), ROW, WIDTH)
    with pytest.raises(ValueError, match="needs 68 positions, but the row has 64"):
        place(np.array([33, 30]), ROW, WIDTH, alignment=4)
    with pytest.raises(ValueError, match="cu_seqlens_width is 3; 2 segments need at least 4"):
        place(np.array([1, 1]), ROW, 3)
    with pytest.raises(ValueError, match=r"sequence_length is 64; give a multiple of .* 5"):
        place(np.array([1]), ROW, WIDTH, alignment=5)


def test_stretches_of_cu_seqlens_keep_their_order():
    cu_seqlens = place(np.array([5, 9, 2]), ROW, 12, alignment=2).cu_seqlens.tolist()
    assert all(start <= stop for start, stop in pairwise(cu_seqlens))
