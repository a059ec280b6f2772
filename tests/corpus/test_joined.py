# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest

from megatron_packing import Corpus
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.verify import verify_pack_index
from megatron_packing.planning.settings import PlanSettings
from tests.conftest import write_corpus


@pytest.fixture
def corpora(tmp_path):
    first = write_corpus(tmp_path / "first", [5, 9, 4, 7], seed=1)
    second = write_corpus(tmp_path / "second", [3, 8, 6], seed=2, with_loss_mask=False)
    return first, second


def contents(corpus):
    return [
        (corpus.tokens(document).tolist(), corpus.loss_mask(document).tolist())
        for document in range(len(corpus))
    ]


def test_joined_corpora_hold_the_documents_of_each_in_turn(corpora):
    first, second = corpora
    joined = open_corpus(f"{first.prefix},{second.prefix}")
    assert contents(joined) == contents(first) + contents(second)
    assert joined.num_tokens.tolist() == [5, 9, 4, 7, 3, 8, 6]
    assert joined.has_loss_mask


def test_a_corpus_over_two_and_a_half_epochs_is_there_twice_and_half(corpora):
    first, second = corpora
    joined = open_corpus(f"{first.prefix}:2.5,{second.prefix}")
    assert len(joined) == 10 + 3
    found = contents(joined)
    assert found[:8] == contents(first) * 2
    half = [contents(first).index(document) for document in found[8:10]]
    assert len(set(half)) == 2
    assert found[10:] == contents(second)
    assert joined.num_tokens.tolist() == [len(tokens) for tokens, _ in found]


def test_a_part_of_a_corpus_is_another_in_each_epoch(corpora):
    first, second = corpora
    joined = open_corpus(f"{first.prefix}:1.5,{second.prefix}")
    assert joined.changes_each_epoch
    halves = [contents(joined.at_epoch(epoch))[4:6] for epoch in range(4)]
    documents = [[contents(first).index(document) for document in half] for half in halves]
    assert sorted(documents[0] + documents[1]) == [0, 1, 2, 3]
    assert sorted(documents[2] + documents[3]) == [0, 1, 2, 3]
    for epoch in range(4):
        view = joined.at_epoch(epoch)
        found = contents(view)
        assert found[:4] + found[6:] == contents(first) + contents(second)
        assert view.num_tokens.tolist() == [len(tokens) for tokens, _ in found]
        assert (np.asarray(view.num_tokens) <= np.asarray(joined.num_tokens)).all()
        assert view.fingerprint == joined.fingerprint
        numbers, own = view.locate(np.arange(len(view)))
        assert numbers.tolist() == [0] * 6 + [1] * 3
        assert own.tolist() == [0, 1, 2, 3, *documents[epoch], 0, 1, 2]


def test_whole_epochs_are_the_same_in_each_epoch(corpora):
    joined = open_corpus(f"{corpora[0].prefix}:2,{corpora[1].prefix}")
    assert not joined.changes_each_epoch
    assert joined.at_epoch(5) is joined


@pytest.mark.parametrize("epochs", ["0.33333333", "1.23456789", "1e-05", "2.5", "2", "3.0"])
def test_the_prefix_says_how_many_epochs_exactly(tmp_path, epochs):
    corpus = write_corpus(tmp_path / "corpus", [3] * 200_000, with_loss_mask=False)
    joined = open_corpus(f"{corpus.prefix}:{epochs}")
    again = open_corpus(joined.prefix)
    assert len(again) == len(joined)
    assert again.fingerprint == joined.fingerprint
    assert str(joined.prefix).startswith(f"{corpus.prefix}:{epochs.removesuffix('.0')}")


def test_a_corpus_that_repeats_documents_is_not_split(corpora, tmp_path):
    """Or documents of the validation set are trained."""
    plan = PlanSettings(strategy="optimal", sequence_length=12)
    for epochs in ("2", "1.5", "0.5"):
        joined = open_corpus(f"{corpora[0].prefix}:{epochs},{corpora[1].prefix}")
        with pytest.raises(InputError, match="it holds documents more than once"):
            build_pack_index(joined, plan, tmp_path / "part", documents=range(3))
        build_pack_index(joined, plan, tmp_path / epochs)
    once = open_corpus(f"{corpora[0].prefix},{corpora[1].prefix}")
    build_pack_index(once, plan, tmp_path / "part", documents=range(3))


def test_a_copy_in_another_process_is_the_same(corpora):
    joined = open_corpus(f"{corpora[0].prefix}:1.5")
    again = pickle.loads(pickle.dumps(joined))
    assert contents(again) == contents(joined)
    assert again.fingerprint == joined.fingerprint


def test_fingerprints_tell_corpora_and_epochs_apart(corpora):
    first, second = (corpus.prefix for corpus in corpora)
    names = [f"{first}", f"{first}:2", f"{first}:2.5", f"{first},{second}", f"{second},{first}"]
    assert len({open_corpus(name).fingerprint for name in names}) == len(names)


def test_fingerprints_of_whole_epochs_are_the_same_in_every_release(corpora):
    """Or the indexes that users have would not open."""
    first, second = corpora
    text = f"{first.fingerprint} 2.0\n{second.fingerprint} 1.0\n"
    expected = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert open_corpus(f"{first.prefix}:2,{second.prefix}").fingerprint == expected


def test_one_corpus_is_opened_as_it_is(corpora):
    assert isinstance(open_corpus(corpora[0].prefix), Corpus)
    assert isinstance(open_corpus(f"{corpora[0].prefix}:2"), JoinedCorpus)


def test_an_index_of_joined_corpora_is_right(corpora, tmp_path):
    joined = open_corpus(f"{corpora[0].prefix}:3,{corpora[1].prefix}:1.4")
    index = build_pack_index(
        joined, PlanSettings(strategy="optimal", sequence_length=12), tmp_path / "i"
    )
    verify_pack_index(index, joined.num_tokens)
    assert np.bincount(index.document_ids).tolist() == [1] * 16
    index.check_corpus(joined.prefix, joined.fingerprint)
    with pytest.raises(InputError, match="another corpus"):
        index.check_corpus(corpora[0].prefix, corpora[0].fingerprint)


@pytest.mark.parametrize("epochs", ["0", "-1", "nan", "two", "0.01", "inf", ""])
def test_bad_epochs_are_named(corpora, epochs):
    with pytest.raises(InputError, match=r"epochs of .*first, which has 4 documents"):
        open_corpus(f"{corpora[0].prefix}:{epochs}")


def test_loss_masks_are_not_taken_for_a_corpus(corpora):
    prefix = f"{corpora[0].prefix}"
    with pytest.raises(InputError, match=f"is the loss mask of {prefix}, which is read with"):
        open_corpus(f"{prefix}_loss_mask")


def test_lengths_are_those_of_the_documents_however_they_are_taken(corpora):
    first, second = corpora
    joined = open_corpus(f"{first.prefix}:2,{second.prefix}:0.5")
    lengths = joined.num_tokens
    whole = np.asarray(lengths)
    assert len(lengths) == len(whole) == len(joined)
    assert whole.tolist() == [len(joined.tokens(i)) for i in range(len(joined))]
    assert [int(lengths[i]) for i in range(len(joined))] == whole.tolist()
    assert np.array_equal(lengths[2:5], whole[2:5])
    chosen = np.array([5, 0, 5, 3], np.int32)
    assert np.array_equal(lengths[chosen], whole[chosen])
    assert lengths[chosen].dtype == whole.dtype == first.num_tokens.dtype
    assert np.asarray(lengths, np.int64).dtype == np.int64


def all_epochs(corpus):
    return [corpus.at_epoch(epoch).num_tokens.tolist() for epoch in range(5)]


def test_a_part_of_a_corpus_is_opened_without_its_lengths(corpora, monkeypatch):
    """They are read where a document is asked for."""
    monkeypatch.setattr(Corpus, "num_tokens", None)
    joined = open_corpus(f"{corpora[0].prefix}:1.5,{corpora[1].prefix}:0.7")
    assert len(joined) == 4 + 2 + 2
    assert joined.changes_each_epoch


def test_orders_that_one_process_keeps_are_read_by_all_others(corpora, tmp_path, monkeypatch):
    names = f"{corpora[0].prefix}:1.5,{corpora[1].prefix}:0.7"
    expected = all_epochs(open_corpus(names))
    folder = tmp_path / "cache" / "orders"
    first, other = open_corpus(names), open_corpus(names)
    for corpus in (other, first):
        corpus.share_orders(folder)
    assert first.keep_orders() is None
    assert len(list(folder.iterdir())) == 2
    pickled = pickle.loads(pickle.dumps(other))
    monkeypatch.setattr("megatron_packing.corpus.changing_part._mix", None)  # to sort
    for corpus in (first, other, pickled):
        assert corpus.keep_orders() is None
        assert all_epochs(corpus) == expected


def test_orders_that_cannot_be_kept_are_computed_and_damaged_ones_are_refused(corpora, tmp_path):
    names = f"{corpora[0].prefix}:1.5"
    expected = all_epochs(open_corpus(names))
    (tmp_path / "file").write_bytes(b"")
    joined = open_corpus(names)
    joined.share_orders(tmp_path / "file" / "orders")
    assert "cannot be written" in str(joined.keep_orders())
    assert all_epochs(joined) == expected
    joined.share_orders(tmp_path / "orders")
    assert joined.keep_orders() is None
    (path,) = (tmp_path / "orders").iterdir()
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged \(its hash differs\); remove it"):
        joined.keep_orders()
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"has 55 bytes where 56 belong; remove it"):
        all_epochs(joined)
