# SPDX-License-Identifier: Apache-2.0
"""Global batches of an even order: every pack once an epoch, and like packs side by side."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing.flops.model import WorkModel
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.stream.even_order import EvenOrder, EvenSettings, work_of_packs
from megatron_packing.stream.order import pack_at
from tests.conftest import chat_like_lengths, write_corpus


def settings(ranks: int, batch: int) -> EvenSettings:
    return EvenSettings(ranks=ranks, batch=batch, per_token=0, per_squared_length=1)


def heavy_tailed(num_packs: int, seed: int = 0) -> np.ndarray:
    """Work of packs: some cost several times as much as most. A row of one document is the most."""
    return 1 + np.random.default_rng(seed).lognormal(0, 0.8, num_packs).clip(max=6)


@given(
    num_packs=st.integers(1, 90),
    ranks=st.integers(1, 5),
    micro_batches=st.integers(2, 4),
    seed=st.integers(0, 2**64 - 1),
)
def test_each_epoch_holds_every_pack_once(num_packs, ranks, micro_batches, seed):
    order = EvenOrder(heavy_tailed(num_packs), settings(ranks, ranks * micro_batches), seed)
    for epoch in range(3):
        packs = [order.pack_at(epoch * num_packs + i) for i in range(num_packs)]
        assert sorted(packs) == list(range(num_packs))


def test_a_sample_depends_on_its_number_alone():
    work = heavy_tailed(500)
    order = EvenOrder(work, settings(4, 16), seed=3)
    expected = [order.pack_at(sample) for sample in range(1200)]
    late = EvenOrder(work, settings(4, 16), seed=3)
    for sample in np.random.default_rng(0).permutation(1200):
        assert late.pack_at(int(sample)) == expected[sample]
    copied = pickle.loads(pickle.dumps(late))
    assert [copied.pack_at(sample) for sample in range(1200)] == expected
    assert [EvenOrder(work, settings(4, 16), seed=4).pack_at(s) for s in range(1200)] != expected


def imbalance(work: np.ndarray, ranks: int, batch: int) -> tuple[float, float, float]:
    """Sync and rank, means over batches; and the spread of the work of batches."""
    whole = work[: len(work) // batch * batch].reshape(-1, batch // ranks, ranks)
    mean = whole.mean(axis=2)
    sync = whole.max(axis=2).sum(axis=1) / mean.sum(axis=1)
    rank = whole.sum(axis=1).max(axis=1) / mean.sum(axis=1)
    total = whole.sum(axis=(1, 2))
    return float(sync.mean()), float(rank.mean()), float(total.std() / total.mean())


def test_ranks_that_meet_have_like_work_and_batches_too():
    work = heavy_tailed(16_000)
    even = EvenOrder(work, settings(16, 128), seed=0)
    ordered = work[[even.pack_at(sample) for sample in range(len(work))]]
    at_random = work[[pack_at(sample, len(work), 0) for sample in range(len(work))]]
    sync, rank, spread = imbalance(ordered, 16, 128)
    sync_at_random, _, spread_at_random = imbalance(at_random, 16, 128)
    assert sync < 1.01 < 1.3 < sync_at_random
    assert rank < 1.005
    assert spread < spread_at_random


@pytest.mark.parametrize("ranks", [8, 32])
def test_other_numbers_of_ranks_keep_most_of_the_effect(ranks):
    work = heavy_tailed(16_000)
    even = EvenOrder(work, settings(16, 64), seed=0)
    ordered = work[[even.pack_at(sample) for sample in range(len(work))]]
    at_random = work[[pack_at(sample, len(work), 0) for sample in range(len(work))]]
    lost, lost_at_random = (imbalance(each, ranks, 64)[0] - 1 for each in (ordered, at_random))
    assert lost < 0.5 * lost_at_random


def test_a_document_comes_early_or_late_whatever_its_pack_costs():
    work = heavy_tailed(16_000)
    order = EvenOrder(work, settings(16, 64), seed=0)
    ordered = work[[order.pack_at(sample) for sample in range(len(work))]]
    steps = np.arange(len(work)) // 64
    assert abs(np.corrcoef(steps, ordered)[0, 1]) < 0.03


def test_packs_of_one_batch_meet_others_in_the_next_epoch():
    num_packs, size = 6400, 64
    order = EvenOrder(heavy_tailed(num_packs), settings(16, size), seed=0)
    batch_of = np.empty((2, num_packs), np.int64)
    for epoch in range(2):
        for sample in range(num_packs):
            batch_of[epoch, order.pack_at(epoch * num_packs + sample)] = sample // size
    same = [batch_of[epoch][:, None] == batch_of[epoch] for epoch in range(2)]
    met_again = (same[0] & same[1]).sum() - num_packs
    assert met_again < 0.2 * (same[0].sum() - num_packs)


@pytest.mark.parametrize(("ranks", "batch"), [(0, 4), (4, 4), (4, 10)])
def test_a_batch_that_ranks_do_not_share_is_refused(ranks, batch):
    with pytest.raises(ValueError, match=f"batch is {batch} and ranks is {ranks}; the batch must"):
        settings(ranks, batch)


@pytest.mark.parametrize(
    "options", [{}, {"alignment": 4}, {"strategy": "random"}, {"overlong": "split"}], ids=str
)
@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_the_work_of_a_pack_is_that_of_its_segments(tmp_path, monkeypatch, options, at_once):
    monkeypatch.setattr("megatron_packing.planning.rows._BLOCK_SEGMENTS", at_once)
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(200, longest=129))
    plan = PlanSettings(sequence_length=128, **options)
    index = build_pack_index(corpus, plan, tmp_path / "index")
    model = WorkModel(per_token=3, per_squared_length=2)
    found = work_of_packs(index, corpus.num_tokens, model)
    for pack in range(len(index)):
        taken = [
            -(-length // plan.alignment) * plan.alignment
            for length in index.segments(pack, corpus.num_tokens).lengths.tolist()
        ]
        assert found[pack] == model.work(np.array([*taken, 128 - sum(taken)]))
