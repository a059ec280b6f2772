# SPDX-License-Identifier: Apache-2.0
"""Corpora in object stores, and in file systems without memory maps."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

pytest.importorskip("megatron.core")
pytest.importorskip("moto")

from megatron.core.msc_utils import MultiStorageClientFeature

from megatron_packing import Corpus
from megatron_packing.corpus.corpus import corpus_record_path
from megatron_packing.errors import InputError
from megatron_packing.megatron import object_storage
from megatron_packing.megatron.object_storage import MegatronStorage
from tests.conftest import chat_like_lengths, write_corpus
from tests.megatron.test_dataset import ROW, build
from tests.trainer import ROW as TRAINER_ROW
from tests.trainer import needs_trainer, train

REMOTE = "s3://bucket/sets/chat"


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(object_storage, "_fetched", {})


def upload(store, corpus):
    for path in corpus.prefix.parent.glob(f"{corpus.prefix.name}*.*"):
        store.put(f"/bucket/sets/chat{path.name[len(corpus.prefix.name) :]}", path.read_bytes())


def gets(store):
    return [(path, size) for method, path, size in store.requests if method == "GET"]


def open_remote(tmp_path, store, **changes):
    store.requests.clear()
    cache = str(tmp_path / "objects")
    (dataset, _, _) = build([REMOTE], tmp_path, object_storage_cache_path=cache, **changes)
    return dataset


def test_rows_are_those_of_the_local_corpus_at_one_exact_request_a_segment(tmp_path, store):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(60, longest=ROW))
    upload(store, corpus)
    (local, _, _) = build([corpus.prefix], tmp_path / "local")
    dataset = open_remote(tmp_path, store)
    assert dataset.index.digest == local.index.digest
    assert dataset.index.corpus.fingerprint == corpus.fingerprint
    assert dataset.index.corpus.prefix == REMOTE
    dataset = pickle.loads(pickle.dumps(dataset))  # as for a worker of the dataloader
    dataset[0]
    store.requests.clear()
    samples = range(len(local.index), len(local.index) + 8)  # of the second epoch
    for sample in samples:
        row, expected = dataset[sample], local[sample]
        assert row.keys() == expected.keys()
        assert all((row[name] == expected[name]).all() for name in row.keys() - {"attention_mask"})
    segments = [segment for sample in samples for segment in dataset.rows.segments(sample)]
    # Tokens (int32) of each position and one more; the loss mask (uint8) of each label.
    assert len(gets(store)) == 2 * len(segments)
    assert store.downloaded() == sum(4 * (length + 1) + length for _, _, length in segments)
    assert all(method == "GET" for method, _, _ in store.requests)


def test_what_was_cached_is_not_read_again_until_it_changes(tmp_path, store):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(60, longest=ROW))
    upload(store, corpus)
    first = open_remote(tmp_path, store).index
    assert first.path.is_relative_to(tmp_path / "cache")
    object_storage._fetched.clear()  # as in another run
    again = open_remote(tmp_path, store).index
    assert again.path == first.path
    assert gets(store) == []
    assert len(store.requests) == 5  # a look at each object, of which the record does not exist
    upload(store, write_corpus(tmp_path / "corpus", chat_like_lengths(60, longest=ROW), seed=1))
    object_storage._fetched.clear()
    changed = open_remote(tmp_path, store).index
    assert changed.path != first.path


def test_objects_that_are_missing_or_half_there_are_named(tmp_path, store):
    corpus = write_corpus(tmp_path / "corpus", [5, 9])
    cache = MegatronStorage(cache=str(tmp_path / "objects"))
    with pytest.raises(InputError, match=f"{REMOTE}.idx does not exist"):
        Corpus(REMOTE, cache)
    with pytest.raises(InputError, match="give --object-storage-cache-path"):
        Corpus(REMOTE, MegatronStorage())
    mask = corpus.prefix.with_name("corpus_loss_mask.idx")
    mask.unlink()  # the .bin alone must not pass for a corpus that trains everything
    upload(store, corpus)
    with pytest.raises(InputError, match="copy both files of the loss mask"):
        Corpus(REMOTE, cache)
    corpus = write_corpus(tmp_path / "corpus", [5, 9])
    corpus_record_path(corpus.prefix).write_text(json.dumps({"num_documents": 3}))
    upload(store, corpus)
    with pytest.raises(InputError, match="counts 3 documents"):
        Corpus(REMOTE, cache)
    corpus_record_path(corpus.prefix).write_text("{}")
    upload(store, corpus)
    store.break_down("denied", after=0, times=100)
    with pytest.raises(InputError, match=r"chat.* cannot be read .*credentials and endpoint"):
        Corpus(REMOTE, cache)


def test_a_corpus_of_the_multi_storage_client_is_read(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "lab" / "corpus", chat_like_lengths(50, longest=ROW))
    provider = {"type": "file", "options": {"base_path": str(tmp_path / "lab")}}
    settings = tmp_path / "client.json"
    settings.write_text(json.dumps({"profiles": {"lab": {"storage_provider": provider}}}))
    monkeypatch.setenv("MSC_CONFIG", str(settings))
    MultiStorageClientFeature.enable()
    try:
        read = Corpus("msc://lab/corpus", MegatronStorage(cache=str(tmp_path / "objects")))
        for document in range(len(corpus)):
            assert np.array_equal(read.tokens(document), corpus.tokens(document))
            assert np.array_equal(read.loss_mask(document), corpus.loss_mask(document))
        assert read.fingerprint == corpus.fingerprint
    finally:
        MultiStorageClientFeature.disable()


@needs_trainer
@pytest.mark.slow
def test_a_run_on_a_stored_corpus_reads_the_rows_of_the_local_one(tmp_path, store, environment):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(100, longest=TRAINER_ROW))
    upload(store, corpus)
    flags = "--train-iters 2 --eval-iters 0"
    local = train(
        f"{flags} --data-path {corpus.prefix} --data-cache-path {tmp_path / 'cache'} "
        f"--no-mmap-bin-files"
    )
    flags += f" --data-path {REMOTE} --object-storage-cache-path {tmp_path / 'objects'}"
    assert train(flags, environment=environment).rows == local.rows
    (index,) = (tmp_path / "objects").rglob("pack_indexes/*")
    assert (index / "manifest.json").exists()
    counts = []
    for parallel, ranks in (("", 1), ("--tensor-model-parallel-size 2", 2)):
        store.requests.clear()
        assert train(f"{flags} {parallel}", ranks, environment=environment).rows == local.rows
        counts.append(gets(store))
    assert 0 < len(counts[0]) == len(counts[1])  # the second rank reads nothing
