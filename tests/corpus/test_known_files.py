# SPDX-License-Identifier: Apache-2.0
"""Corpora whose record says what their files are open without being read."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest

from megatron_packing.corpus.corpus import Corpus, KnownCorpus, corpus_record_path
from megatron_packing.corpus.indexed_dataset import HEADER, index_path, read_index
from megatron_packing.corpus.joined import open_corpus
from megatron_packing.errors import InputError, UnreadableError
from tests.conftest import write_corpus

LENGTHS = [5, 9, 4, 30]


def write_recorded(prefix, **options) -> Corpus:
    """A corpus as this project writes it, with a record that knows its files."""
    corpus = write_corpus(prefix, LENGTHS, **options)
    record = {"num_documents": len(corpus), "files": corpus.known().files.as_json()}
    corpus_record_path(prefix).write_text(json.dumps(record))
    return corpus


def change(path, at: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] = value
    path.write_bytes(content)


def make_older_than_record(prefix) -> None:
    """As where a file was changed by something that keeps its times."""
    for path in prefix.parent.glob("*.[bi][id][nx]"):
        os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("with_loss_mask", [True, False])
def test_a_recorded_corpus_is_that_which_reading_finds(tmp_path, monkeypatch, with_loss_mask):
    corpus = write_recorded(tmp_path / "corpus", with_loss_mask=with_loss_mask)
    documents = [(corpus.tokens(i).tolist(), corpus.loss_mask(i).tolist()) for i in range(4)]
    monkeypatch.setattr("megatron_packing.corpus.corpus.read_index", None)
    monkeypatch.setattr("megatron_packing.corpus.corpus.fingerprint_of", None)
    opened = Corpus(corpus.prefix, trust="record")
    known = KnownCorpus(record=opened.record, files=opened.known().files)
    for again in (opened, Corpus(corpus.prefix, trust=known), pickle.loads(pickle.dumps(opened))):
        assert again.fingerprint == corpus.fingerprint
        assert len(again) == 4
        assert again.has_loss_mask is with_loss_mask
        found = [(again.tokens(i).tolist(), again.loss_mask(i).tolist()) for i in range(4)]
        assert found == documents
        assert again.num_tokens.tolist() == LENGTHS


def test_opening_a_known_corpus_reads_no_document(tmp_path):
    """Damaged lengths show where they are used, or where nothing is trusted."""
    corpus = write_recorded(tmp_path / "corpus")
    change(index_path(corpus.prefix), HEADER.size + 3, 255)
    make_older_than_record(corpus.prefix)
    opened = Corpus(corpus.prefix, trust="record")
    assert len(opened) == 4
    with pytest.raises(InputError, match="lengths cannot be negative"):
        Corpus(corpus.prefix)


def test_other_sizes_or_another_header_are_read_anew(tmp_path):
    corpus = write_recorded(tmp_path / "corpus")
    fingerprint = corpus.fingerprint
    write_corpus(corpus.prefix, [5, 9, 30, 5], seed=1)
    again = Corpus(corpus.prefix, trust="record")
    assert again.fingerprint == write_corpus(tmp_path / "other", [5, 9, 30, 5], seed=1).fingerprint
    assert again.fingerprint != fingerprint
    for ending in (".bin", ".idx"):
        (tmp_path / f"corpus_loss_mask{ending}").unlink()  # and now without a loss mask
    assert not Corpus(corpus.prefix, trust="record").has_loss_mask


def test_a_loss_mask_that_came_later_is_read(tmp_path):
    corpus = write_recorded(tmp_path / "corpus", with_loss_mask=False)
    write_corpus(corpus.prefix, LENGTHS)
    again = Corpus(corpus.prefix, trust="record")
    assert again.has_loss_mask
    assert again.fingerprint != corpus.fingerprint


def test_a_fingerprint_that_is_not_the_recorded_one_is_refused_where_it_is_computed(tmp_path):
    corpus = write_recorded(tmp_path / "corpus")
    change(corpus.prefix.with_name("corpus.bin"), 0, 77)
    make_older_than_record(corpus.prefix)
    assert Corpus(corpus.prefix, trust="record").fingerprint == corpus.fingerprint
    with pytest.raises(InputError, match=r"corpus_corpus.json says that the fingerprint is sha256"):
        _ = Corpus(corpus.prefix).fingerprint


def test_a_file_that_is_newer_than_the_record_is_read(tmp_path):
    corpus = write_recorded(tmp_path / "corpus")
    data = corpus.prefix.with_name("corpus_loss_mask.bin")
    later = corpus_record_path(corpus.prefix).stat().st_mtime_ns + 1
    os.utime(data, ns=(later, later))
    assert Corpus(corpus.prefix, trust="record").fingerprint == corpus.fingerprint
    data.write_bytes(bytes(len(data.read_bytes())))
    os.utime(data, ns=(later, later))
    with pytest.raises(InputError, match=r"corpus_corpus.json says that the fingerprint is sha256"):
        _ = Corpus(corpus.prefix, trust="record").fingerprint


def test_a_copy_of_what_rank_0_opened_is_read_and_compared(tmp_path):
    """Of the same sizes and header: the documents stand in another order."""
    known = write_corpus(tmp_path / "corpus", [6] * 4, seed=1).known()
    copy = write_corpus(tmp_path / "copy", [6] * 4, seed=1)
    assert Corpus(copy.prefix, trust=known).fingerprint == known.files.fingerprint
    other = write_corpus(tmp_path / "other", [6] * 4, seed=2)
    with pytest.raises(InputError, match=r"other is another corpus here than on rank 0 \(its fing"):
        Corpus(other.prefix, trust=known)


def test_a_copy_that_is_cut_off_is_named_with_who_knows_better(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", LENGTHS)
    known = corpus.known()
    data = corpus.prefix.with_name("corpus_loss_mask.bin")
    os.truncate(data, 40)
    with pytest.raises(UnreadableError, match=r"mask.bin has 40 bytes here, but 48 on rank 0; the"):
        open_corpus(corpus.prefix, trust=lambda _: known)
    data.unlink()
    with pytest.raises(UnreadableError, match=r"corpus_loss_mask.bin does not exist"):
        open_corpus(corpus.prefix, trust=lambda _: known)


def test_an_index_that_is_replaced_before_it_is_mapped_is_noticed(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", LENGTHS)
    opened = Corpus(corpus.prefix, trust=corpus.known())
    change(index_path(corpus.prefix), 17, 3)
    with pytest.raises(InputError, match=r"corpus.idx"):
        opened.tokens(0)


def test_documents_of_several_sequences_are_handed_on(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", LENGTHS, with_loss_mask=False)
    path = index_path(corpus.prefix)
    content = bytearray(path.read_bytes())
    content[-5 * 8 :] = np.array([0, 2, 4], "<i8").tobytes()
    content[HEADER.size - 8 : HEADER.size] = (3).to_bytes(8, "little")
    path.write_bytes(content)
    grouped = Corpus(corpus.prefix)
    opened = Corpus(corpus.prefix, trust=grouped.known())
    assert opened.num_tokens.tolist() == grouped.num_tokens.tolist() == [14, 34]
    assert opened.tokens(1).tolist() == grouped.tokens(1).tolist()
    assert read_index(corpus.prefix).groups_sequences


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"fingerprint": 1}, "files"),
        ({"tokens": None}, "files.tokens"),
        ({"tokens": {"data_bytes": -1}}, "files.tokens.data_bytes"),
        ({"tokens": {"index_bytes": True}}, "files.tokens.index_bytes"),
        ({"loss_mask": {"index_header": "00"}}, "files.loss_mask.index_header"),
        ({"loss_mask": {"index_header": "xy" * 34}}, "files.loss_mask.index_header"),
        ({"tokens": {"groups_sequences": 1}}, "files.tokens.groups_sequences"),
    ],
)
def test_a_damaged_record_of_the_files_is_refused(tmp_path, change, name):
    corpus = write_recorded(tmp_path / "corpus")
    path = corpus_record_path(corpus.prefix)
    record = json.loads(path.read_text())
    for field, value in change.items():
        before = record["files"][field]
        record["files"][field] = {**before, **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"corpus_corpus.json has .* for {name}, which it cannot"):
        Corpus(corpus.prefix, trust="record")
