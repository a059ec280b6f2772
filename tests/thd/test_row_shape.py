# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.thd.row_shape import RowShape
from megatron_packing.thd.rows import PackedRows
from tests.conftest import write_corpus

ROW = 64


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def build(lengths, **plan):
        folder = tmp_path_factory.mktemp("shape")
        tokens = [length + 1 for length in lengths]
        corpus = write_corpus(folder / "corpus", tokens, with_loss_mask=False)
        plan = PlanSettings(**{"sequence_length": ROW, "strategy": "optimal", "seed": 2, **plan})
        return build_pack_index(corpus, plan, folder / "index"), corpus

    return build


def rows_of(made, shape=None, attention="document"):
    index, corpus = made
    return PackedRows(
        index=index,
        corpus=corpus,
        seed=1,
        new_order_each_epoch=True,
        attention=attention,
        run_shape=shape,
    )


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_row_of_every_index_fits_the_one_shape(make, data):
    made = []
    for _ in range(data.draw(st.integers(1, 3))):
        alignment = data.draw(st.sampled_from([1, 2, 8]))
        longest = data.draw(st.integers(1, ROW))
        lengths = data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=20))
        most = data.draw(st.sampled_from([None, 1, 3]))
        made.append(make(lengths, alignment=alignment, max_documents_per_pack=most))
    attention = data.draw(st.sampled_from(["document", "pack"]))
    shape = RowShape.of([index for index, _ in made], attention)
    assert shape.max_seqlen != ROW
    for one in made:
        rows = rows_of(one, shape, attention)
        for sample in range(2 * len(one[0])):
            row = rows.row(sample, with_tokens=False)
            assert row["cu_seqlens"].shape == (shape.width,)
            assert row["real_lengths"].shape == (shape.width - 1,)
            assert row["max_seqlen"] == shape.max_seqlen >= np.diff(row["cu_seqlens"]).max()


def test_the_longest_document_decides_max_seqlen_and_how_long_parts_of_a_tail_may_be(make):
    made = make([20, 15, 3], max_documents_per_pack=2, alignment=4)
    assert RowShape.of([made[0]]) == RowShape(width=2 + 1 + 4, max_seqlen=20)
    rows = [rows_of(made).row(sample)["cu_seqlens"] for sample in range(2)]
    assert max(np.diff(row).max() for row in rows) == 20


def test_a_document_that_fills_the_row_makes_max_seqlen_longer_than_the_row(make):
    index, _ = make([ROW, 5])
    assert RowShape.of([index]) == RowShape(width=3, max_seqlen=ROW + 1)
    aligned, _ = make([ROW - 3, 5], alignment=8)  # with its pads
    assert RowShape.of([aligned, index]).max_seqlen == ROW + 8


def test_a_pack_that_is_one_span_may_fill_the_row(make):
    index, _ = make([5, 5])
    assert RowShape.of([index], "pack") == RowShape(width=4, max_seqlen=ROW + 1)


def test_a_document_longer_than_the_shape_is_refused(make):
    short, long = make([9, 4]), make([40])
    rows = rows_of(long, RowShape.of([short[0]]))
    with pytest.raises(InputError, match=r"document of 40 positions, .* none over 9: .*RowShape"):
        rows.row(0)
