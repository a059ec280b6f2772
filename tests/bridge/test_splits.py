# SPDX-License-Identifier: Apache-2.0
"""What rank 0 opened of a recipe's packs is opened by other ranks without being read."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("megatron.core")

from megatron_packing.bridge.splits import Packs, open_splits
from megatron_packing.corpus.joined import open_corpus
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from tests.conftest import chat_like_lengths, write_corpus

ROW = 64


def make_packs(folder, prefixes, name="packs"):
    settings = PlanSettings(strategy="greedy", sequence_length=ROW)
    return build_pack_index(open_corpus(prefixes), settings, folder / name).path


@pytest.fixture
def packs(tmp_path):
    for number, name in enumerate(("chat", "code")):
        lengths = chat_like_lengths(40, longest=ROW, seed=number)
        write_corpus(tmp_path / name, lengths, seed=number)
    return make_packs(tmp_path, f"{tmp_path / 'chat'},{tmp_path / 'code'}:2")


def handed_on(part: Packs):
    return json.loads(json.dumps(part.known()))


def test_another_rank_opens_a_corpus_late_and_does_not_read_it(packs, monkeypatch):
    first = open_splits({"train": packs}, {"train": None})["train"].parts[0]
    found = handed_on(first)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("megatron_packing.corpus.corpus.fingerprint_of", None)
    monkeypatch.setattr("megatron_packing.corpus.corpus.read_index", None)
    (other,) = open_splits({"train": packs}, {"train": None})["train"].parts
    assert "corpus" not in vars(other)
    other.adopt(*found)
    assert other.index.digest == first.index.digest
    assert other.corpus.fingerprint == first.corpus.fingerprint
    documents = range(len(first.corpus))
    for document in documents:
        assert other.corpus.tokens(document).tolist() == first.corpus.tokens(document).tolist()


def test_a_rank_that_sees_other_packs_or_another_corpus_says_so(packs, tmp_path):
    found = handed_on(Packs(packs, None))
    here = tmp_path / "here"
    here.mkdir()
    for path in (*tmp_path.glob("chat*"), *tmp_path.glob("code*")):
        shutil.copy2(path, here)
    shutil.copytree(packs, here / "packs")
    copy = Packs(here / "packs", None)
    copy.adopt(*found)
    assert copy.corpus.folder == here
    write_corpus(here / "code", chat_like_lengths(40, longest=ROW, seed=1), seed=9)
    with pytest.raises(InputError, match=r"code is another corpus here than on rank 0"):
        Packs(here / "packs", f"{here / 'chat'},{here / 'code'}:2").adopt(*found)
    other = make_packs(tmp_path, str(tmp_path / "chat"), "other")
    with pytest.raises(InputError, match="is another pack index here than where it was opened fir"):
        Packs(other, None).adopt(*found)
