# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from megatron_packing import Corpus
from megatron_packing.corpus.corpus import corpus_record_path
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.corpus.storage import FileStorage
from megatron_packing.errors import InputError, UnreadableError
from tests.conftest import write_corpus


def test_slices_of_tokens_and_masks_are_those_of_the_files(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 9, 4])
    tokens = np.fromfile(tmp_path / "corpus.bin", np.int32)
    masks = np.fromfile(tmp_path / "corpus_loss_mask.bin", np.uint8)
    assert corpus.tokens(1).tolist() == tokens[5:14].tolist()
    assert corpus.tokens(1, 2, 6).tolist() == tokens[7:11].tolist()
    assert corpus.loss_mask(1, 2, 6).tolist() == masks[7:11].tolist()
    with pytest.raises(IndexError, match="document 1 has 9 tokens, not 2 to 10"):
        corpus.tokens(1, 2, 10)


def test_without_masks_every_token_is_trained(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 9], with_loss_mask=False)
    assert not corpus.has_loss_mask
    assert corpus.loss_mask(1).tolist() == [1] * 9
    assert corpus.loss_mask(1, 3, 5).tolist() == [1, 1]


def test_masks_of_other_documents_are_refused(tmp_path):
    write_corpus(tmp_path / "corpus", [5, 9])
    write_corpus(tmp_path / "other", [5, 8])
    for ending in ("bin", "idx"):
        shutil.copy(tmp_path / f"other_loss_mask.{ending}", tmp_path / f"corpus_loss_mask.{ending}")
    with pytest.raises(InputError, match=r"corpus_loss_mask.idx has other document lengths"):
        Corpus(tmp_path / "corpus")


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_half_of_the_masks_is_not_taken_for_none(tmp_path, ending):
    write_corpus(tmp_path / "corpus", [5, 9])
    (tmp_path / f"corpus_loss_mask.{ending}").unlink()
    with pytest.raises(InputError, match=rf"corpus_loss_mask.{ending} does not exist"):
        Corpus(tmp_path / "corpus")


def write_record(prefix, **fields):
    corpus_record_path(prefix).write_text(json.dumps(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"num_tokens": 14, "num_trained_tokens": 6},
        {"num_tokens": 14, "num_trained_tokens": 14, "has_loss_mask": True},
        {"has_loss_mask": True},
    ],
)
def test_a_lost_loss_mask_is_not_taken_for_none(tmp_path, fields):
    corpus = write_corpus(tmp_path / "corpus", [5, 9])
    write_record(corpus.prefix, **fields)
    assert Corpus(corpus.prefix).has_loss_mask
    for ending in ("bin", "idx"):
        (tmp_path / f"corpus_loss_mask.{ending}").unlink()
    with pytest.raises(UnreadableError, match=r"corpus_loss_mask.bin and .idx are missing, but "):
        Corpus(corpus.prefix)


def test_a_corpus_of_which_every_token_is_trained_needs_no_loss_mask(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 9], with_loss_mask=False)
    write_record(corpus.prefix, num_tokens=14, num_trained_tokens=14)
    assert not Corpus(corpus.prefix).has_loss_mask
    write_record(corpus.prefix, has_loss_mask=False)
    assert not Corpus(corpus.prefix).has_loss_mask


def test_links_to_a_loss_mask_that_is_not_there_are_not_taken_for_none(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 9], with_loss_mask=False)
    for ending in ("bin", "idx"):
        (tmp_path / f"corpus_loss_mask.{ending}").symlink_to(tmp_path / f"not_mounted.{ending}")
    with pytest.raises(UnreadableError, match=r"\(a link to .*not_mounted.idx\) does not exist"):
        Corpus(corpus.prefix)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_documents": 3}, "counts 3 documents, but .*corpus.idx has 2"),
        ({"num_documents": 2, "num_tokens": 15}, "counts 15 tokens, but .*corpus.idx has 14"),
        ({"num_documents": "two"}, "has 'two' for num_documents, not int"),
    ],
)
def test_the_record_of_another_corpus_is_refused(tmp_path, fields, message):
    corpus = write_corpus(tmp_path / "corpus", [5, 9])
    write_record(corpus.prefix, **fields)
    with pytest.raises(InputError, match=message):
        Corpus(corpus.prefix)


@pytest.mark.parametrize("value", [2, 255])
def test_other_values_in_a_loss_mask_never_reach_the_loss(tmp_path, value):
    corpus = write_corpus(tmp_path / "corpus", [5, 9, 4])
    path = tmp_path / "corpus_loss_mask.bin"
    masks = np.fromfile(path, np.uint8)
    masks[10] = value
    masks.tofile(path)
    corpus = Corpus(corpus.prefix)
    assert corpus.loss_mask(0).tolist() == masks[:5].tolist()
    with pytest.raises(InputError, match=rf"corpus_loss_mask.bin has {value} in document 1; a los"):
        corpus.loss_mask(1)
    with pytest.raises(InputError, match=rf"has {value} in document 1"):
        _ = corpus.fingerprint


def test_masks_must_be_bytes(tmp_path):
    write_corpus(tmp_path / "corpus", [5, 9])
    for ending in ("bin", "idx"):
        shutil.copy(tmp_path / f"corpus.{ending}", tmp_path / f"corpus_loss_mask.{ending}")
    with pytest.raises(InputError, match="a loss mask must have uint8"):
        Corpus(tmp_path / "corpus")


def test_the_fingerprint_follows_the_content(tmp_path):
    def fingerprint(name, lengths=(5, 9, 4), **changes):
        return write_corpus(tmp_path / name, lengths, **changes).fingerprint

    original = fingerprint("a/corpus")
    assert fingerprint("b/copy") == original
    others = [
        fingerprint("c/corpus", seed=1),
        fingerprint("d/corpus", lengths=(9, 5, 4)),
        fingerprint("e/corpus", with_loss_mask=False),
    ]
    assert len({original, *others}) == 4


def test_the_fingerprint_is_the_same_in_every_release(tmp_path):
    """Or the indexes that users have would not open."""
    lengths = np.array([3, 4, 5])
    with IndexedDatasetWriter(tmp_path / "corpus", np.dtype(np.int32)) as tokens:
        tokens.add(np.arange(12), lengths)
    without = "26fb43587f2c20d869fbadc89139b2bfbec3294636310602def2651a5a40ae54"
    assert Corpus(tmp_path / "corpus").fingerprint == f"sha256:{without}"
    with IndexedDatasetWriter(tmp_path / "corpus_loss_mask", np.dtype(np.uint8)) as masks:
        masks.add(np.arange(12) % 2, lengths)
    with_masks = "48f5020829670afbb49bc9c3c0ddb5b41fc34fce6ebe535a616d6a509d1cfde5"
    assert Corpus(tmp_path / "corpus").fingerprint == f"sha256:{with_masks}"


def test_the_fingerprint_of_a_large_corpus_is_of_blocks_throughout(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5_000_000])
    original = corpus.fingerprint
    data = np.memmap(tmp_path / "corpus.bin", np.uint8, "r+")
    block = (len(data) - (1 << 16)) * 100 // 255
    for at in (0, block, len(data) - 1):
        data[at] ^= 1
        data.flush()
        assert Corpus(corpus.prefix).fingerprint != original
        data[at] ^= 1
        data.flush()
    assert Corpus(corpus.prefix).fingerprint == original


def test_a_copy_in_another_process_opens_the_files_anew(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5_000, 9])
    corpus.tokens(0)
    pickled = pickle.dumps(corpus)
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled).tokens(1), corpus.tokens(1))


def test_data_read_by_position_are_those_mapped(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 1, 700, 30])
    read = pickle.loads(pickle.dumps(Corpus(corpus.prefix, FileStorage(mapped=False))))
    for document in range(len(corpus)):
        for start in (0, 1):
            assert read.tokens(document, start).tolist() == corpus.tokens(document, start).tolist()
            assert (read.loss_mask(document, start) == corpus.loss_mask(document, start)).all()
    assert read.fingerprint == corpus.fingerprint
    maps = Path("/proc/self/maps").read_text()
    assert f"{corpus.prefix}.bin" in maps  # of the other
    data = corpus.prefix.with_name("corpus.bin")
    os.truncate(data, data.stat().st_size - 4)
    with pytest.raises(UnreadableError, match="was truncated after the corpus was opened"):
        read.tokens(3)


@pytest.mark.parametrize("prefix", ["s3://bucket/chat", "msc://lab/chat"])
def test_a_corpus_in_an_object_store_is_refused(prefix):
    for name in (prefix, Path(prefix)):
        with pytest.raises(InputError, match=f"^{prefix} is in an object store, which only"):
            Corpus(name)
