# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from megatron_packing import plan_packs
from megatron_packing.corpus.corpus import Corpus, loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.index.pack_index import Segments
from megatron_packing.thd.layout import lay_out, place
from megatron_packing.thd.loss_weights import SHARES, weigh
from tests.conftest import chat_like_lengths, write_corpus
from tests.planning.reference import segments_of

ROW = 32


def weigh_row(corpus, pack, normaliser, *, parts_are_elsewhere=True):
    segments = Segments(*np.array(pack, np.int64).reshape(-1, 3).T)
    placement = place(segments.lengths, ROW, len(pack) + 2, alignment=2)
    layout = lay_out(corpus, segments, placement, 0)
    return weigh(
        layout.loss_mask,
        corpus,
        segments,
        placement,
        normaliser,
        parts_are_elsewhere=parts_are_elsewhere,
    )


def corpus_of(path, *masks: list[int]) -> Corpus:
    """Documents whose tokens are all 1, with these loss masks."""
    for prefix, dtype in ((path, np.int32), (loss_mask_prefix(path), np.uint8)):
        with IndexedDatasetWriter(prefix, np.dtype(dtype)) as writer:
            for mask in masks:
                values = np.ones(len(mask)) if dtype is np.int32 else np.array(mask)
                writer.add(values.astype(dtype), np.array([len(mask)]))
    return Corpus(path)


@pytest.fixture
def small(tmp_path):
    #                            turns of 2 and 1 labels        one turn of 3
    return corpus_of(tmp_path / "small", [0, 1, 1, 0, 1], [0, 0, 1, 1, 1])


def test_weights_written_out_by_hand(small):
    pack = [(1, 0, 4), (0, 0, 4)]
    weights, denominator = weigh_row(small, pack, "token")
    assert weights[:8].tolist() == [0, 1, 1, 1, 1, 1, 0, 1]
    assert denominator == 6
    weights, denominator = weigh_row(small, pack, "sequence")
    third = np.float32(SHARES / 3)
    assert weights[:8].tolist() == [0, third, third, third, third, third, 0, third]
    assert denominator == 2 * SHARES
    weights, denominator = weigh_row(small, pack, "turn")
    half = SHARES / 2
    assert weights[:8].tolist() == [0, third, third, third, half, half, 0, SHARES]
    assert denominator == 3 * SHARES
    assert weights[8:].sum() == 0


def test_a_document_that_trains_nothing_counts_for_nothing(tmp_path):
    corpus = corpus_of(tmp_path / "none", [1, 0, 0, 0])
    for normaliser in ("token", "sequence", "turn"):
        weights, denominator = weigh_row(corpus, [(0, 0, 3)], normaliser)
        assert weights.sum() == denominator == 0


@pytest.mark.parametrize("normaliser", ["sequence", "turn"])
def test_parts_of_a_document_count_as_much_as_the_whole(tmp_path, normaliser):
    mask = [0] + ([1] * 8 + [0] * 2) * 10
    corpus = corpus_of(tmp_path / "long", mask)
    parts = [(0, start, min(28, 100 - start)) for start in range(0, 100, 28)]
    rows = [weigh_row(corpus, [part], normaliser) for part in parts]
    whole = SHARES * (1 if normaliser == "sequence" else 10)
    assert sum(denominator for _, denominator in rows) == pytest.approx(whole, abs=len(parts) * 2)
    for weights, denominator in rows:
        assert weights.sum() == pytest.approx(denominator, rel=1e-6)
        assert len(set(weights[weights > 0].round(3))) <= (1 if normaliser == "sequence" else 3)


def test_what_was_cut_off_does_not_count(tmp_path):
    corpus = corpus_of(tmp_path / "long", [0] + [1] * 100)
    _, denominator = weigh_row(corpus, [(0, 0, 20)], "sequence", parts_are_elsewhere=False)
    assert denominator == SHARES
    _, denominator = weigh_row(corpus, [(0, 0, 20)], "sequence", parts_are_elsewhere=True)
    assert denominator == round(SHARES / 5)


@pytest.mark.parametrize("normaliser", ["sequence", "turn"])
def test_every_document_or_turn_weighs_the_same_however_it_is_packed(tmp_path, normaliser):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(100, longest=ROW))
    positions = np.asarray(corpus.num_tokens) - 1
    for strategy in ("padding", "optimal"):
        plan = plan_packs(positions, ROW, strategy=strategy, alignment=2)
        weighed = [weigh_row(corpus, pack, normaliser) for pack in segments_of(plan, positions)]
        masks = [corpus.loss_mask(i)[1:].astype(int) for i in range(len(corpus))]
        if normaliser == "sequence":
            units = sum(mask.any() for mask in masks)
        else:
            units = sum(int((np.diff(mask, prepend=0) == 1).sum()) for mask in masks)
        assert sum(denominator for _, denominator in weighed) == units * SHARES
        total = sum(float(weights.sum(dtype=np.float64)) for weights, _ in weighed)
        assert total == pytest.approx(units * SHARES, rel=1e-6)
