from __future__ import annotations

import pickle

import numpy as np
import pytest

from megatron_packing import Corpus
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PlanSettings
from megatron_packing.index.verify import verify_pack_index
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


def test_a_copy_in_another_process_is_the_same(corpora):
    joined = open_corpus(f"{corpora[0].prefix}:1.5")
    again = pickle.loads(pickle.dumps(joined))
    assert contents(again) == contents(joined)
    assert again.fingerprint == joined.fingerprint


def test_fingerprints_tell_corpora_and_epochs_apart(corpora):
    first, second = (corpus.prefix for corpus in corpora)
    names = [f"{first}", f"{first}:2", f"{first}:2.5", f"{first},{second}", f"{second},{first}"]
    assert len({open_corpus(name).fingerprint for name in names}) == len(names)


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
