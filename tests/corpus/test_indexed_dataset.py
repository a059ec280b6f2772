# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import numpy as np
import pytest

from megatron_packing import Corpus
from megatron_packing.corpus.indexed_dataset import (
    DTYPE_CODES,
    HEADER,
    MAGIC,
    IndexedDatasetWriter,
    index_path,
    read_index,
)
from megatron_packing.errors import InputError
from tests.conftest import write_corpus

LENGTHS = [3, 1, 0, 7, 250]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_megatron_reads_what_is_written(tmp_path, dtype):
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    values = np.random.default_rng(0).integers(0, 256, sum(LENGTHS)).astype(dtype)
    with IndexedDatasetWriter(tmp_path / "ours", np.dtype(dtype)) as writer:
        writer.add(values[:4], np.array(LENGTHS[:3]))
        writer.add(values[4:], np.array(LENGTHS[3:]))
    dataset = indexed_dataset.IndexedDataset(str(tmp_path / "ours"))
    assert np.array_equal(dataset.sequence_lengths, LENGTHS)
    assert np.array_equal(dataset.document_indices, np.arange(len(LENGTHS) + 1))
    for number, expected in enumerate(np.split(values, np.cumsum(LENGTHS)[:-1])):
        assert dataset[number].dtype == dtype
        assert np.array_equal(dataset[number], expected)


def test_our_bytes_are_those_of_megatrons_builder(tmp_path):
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).integers(0, 256, sum(LENGTHS)).astype(np.int32)
    with IndexedDatasetWriter(tmp_path / "ours", np.dtype(np.int32)) as writer:
        writer.add(values, np.array(LENGTHS))
    builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), np.int32)
    for document in np.split(values, np.cumsum(LENGTHS)[:-1]):
        builder.add_item(torch.from_numpy(document))
        builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    for ending in ("bin", "idx"):
        ours, theirs = tmp_path / f"ours.{ending}", tmp_path / f"theirs.{ending}"
        assert ours.read_bytes() == theirs.read_bytes()


def test_all_dtypes_have_megatrons_codes():
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    for dtype, code in DTYPE_CODES.items():
        assert indexed_dataset.DType.code_from_dtype(dtype.type) == code


@pytest.fixture
def prefix(tmp_path):
    return write_corpus(tmp_path / "corpus", [5, 6, 7]).prefix


def truncate(path, count):
    path.write_bytes(path.read_bytes()[:-count])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.with_suffix(".idx").unlink(), r"corpus.idx does not exist; give the prefix"),
        (lambda p: p.with_suffix(".bin").unlink(), r"corpus.bin does not exist"),
        (lambda p: truncate(p.with_suffix(".bin"), 1), r"corpus.bin has 71 bytes, .* expects 72"),
        (lambda p: truncate(p.with_suffix(".idx"), 5), r"corpus.idx has .* truncated or damaged"),
        (
            lambda p: p.with_suffix(".idx").write_bytes(b""),
            "less than the header of a Megatron index",
        ),
        (lambda p: p.with_suffix(".idx").write_bytes(b"x" * 100), "is not a Megatron index"),
    ],
)
def test_a_damaged_file_is_named(prefix, damage, message):
    damage(prefix)
    with pytest.raises(InputError, match=message):
        Corpus(prefix)


@pytest.mark.parametrize(
    ("at", "value", "message"), [(9, 2, "has version 2"), (17, 99, "has dtype code 99")]
)
def test_an_unknown_header_is_named(prefix, at, value, message):
    path = prefix.with_suffix(".idx")
    content = bytearray(path.read_bytes())
    content[at] = value
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_index(prefix)


def rewrite_index(prefix, lengths, offsets, boundaries, *, code=4, modes=b""):
    content = HEADER.pack(MAGIC, 1, code, len(lengths), len(boundaries))
    content += np.array(lengths, "<i4").tobytes() + np.array(offsets, "<i8").tobytes()
    index_path(prefix).write_bytes(content + np.array(boundaries, "<i8").tobytes() + modes)


def test_documents_of_several_sequences_are_joined(tmp_path):
    """As ``preprocess_data.py --split-sentences`` writes them."""
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    random = np.random.default_rng(3)
    builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "sentences.bin"), np.int32)
    documents = []
    for count in (3, 1, 0, 4, 0):
        sentences = [random.integers(0, 99, random.integers(0, 9)) for _ in range(count)]
        documents.append(np.concatenate([*sentences, np.zeros(0, int)]))
        builder.add_document(documents[-1], [len(part) for part in sentences])
    builder.finalize(str(tmp_path / "sentences.idx"))
    corpus = Corpus(tmp_path / "sentences")
    assert corpus.num_tokens.dtype == np.int32
    assert corpus.num_tokens.tolist() == [len(tokens) for tokens in documents]
    for number, tokens in enumerate(documents):
        assert corpus.tokens(number).tolist() == tokens.tolist()


def test_joining_does_not_change_the_fingerprint_of_whole_documents(tmp_path):
    prefix = write_corpus(tmp_path / "corpus", [5, 6, 7], with_loss_mask=False).prefix
    whole = Corpus(prefix).fingerprint
    rewrite_index(prefix, [5, 6, 7], [0, 20, 44], [0, 2, 3])
    assert Corpus(prefix).num_tokens.tolist() == [11, 7]
    assert Corpus(prefix).fingerprint != whole
    rewrite_index(prefix, [5, 6, 7], [0, 20, 44], [0, 1, 2, 3])
    assert Corpus(prefix).fingerprint == whole


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ([], "has document boundaries from none to none, but its 3 sequences need 0 to 3"),
        ([0], "from 0 to 0, but"),
        ([0, 1, 2], "from 0 to 2, but"),
        ([1, 2, 3], "from 1 to 3, but"),
        ([0, 2, 1, 3], "decreasing document boundaries after 2"),
        ([0, -1, 2, 3], "decreasing document boundaries after 0"),
        ([0, 9, 2, 3], "decreasing document boundaries after 9"),
    ],
)
def test_boundaries_that_do_not_divide_the_sequences_are_refused(prefix, boundaries, message):
    rewrite_index(prefix, [5, 6, 7], [0, 20, 44], boundaries)
    with pytest.raises(InputError, match=message):
        read_index(prefix)


@pytest.mark.parametrize(
    ("lengths", "offsets", "message"),
    [
        ([5, 6, 7], [0, 24, 44], "sequence 1 starts at byte 24 of corpus.bin, .* end at byte 20"),
        ([5, 6, 7], [4, 20, 44], "sequence 0 starts at byte 4 of corpus.bin, .* end at byte 0"),
        ([5, 6, 7], [0, 20, 20], "sequence 2 starts at byte 20 of corpus.bin, .* end at byte 44"),
        ([5, -6, 19], [0, 20, -4], "length -6 at sequence 1; lengths cannot be negative"),
        ([5, 6, 8], [0, 20, 44], "corpus.bin has 72 bytes, but corpus.idx expects 76"),
    ],
)
def test_sequences_must_lie_one_after_another(prefix, lengths, offsets, message):
    rewrite_index(prefix, lengths, offsets, [0, 1, 2, 3])
    with pytest.raises(InputError, match=message):
        read_index(prefix)


def test_offsets_are_checked_beyond_the_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_packing.corpus.indexed_dataset._BLOCK", 4)
    lengths = list(range(1, 12))
    write_corpus(tmp_path / "long", lengths, with_loss_mask=False)
    offsets = (4 * np.cumsum([0, *lengths[:-1]])).tolist()
    rewrite_index(tmp_path / "long", lengths, offsets, range(12))
    assert Corpus(tmp_path / "long").num_tokens.tolist() == lengths
    for at in range(11):
        wrong = [offset + 4 * (number == at) for number, offset in enumerate(offsets)]
        rewrite_index(tmp_path / "long", lengths, wrong, range(12))
        with pytest.raises(InputError, match=f"sequence {at} starts at byte {wrong[at]} "):
            read_index(tmp_path / "long")


def test_a_multimodal_corpus_is_refused(prefix):
    rewrite_index(prefix, [5, 6, 7], [0, 20, 44], range(4), modes=b"\0\1\0")
    with pytest.raises(InputError, match=r"corpus.idx belongs to a multimodal corpus"):
        read_index(prefix)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tokens_must_be_integers(tmp_path, dtype):
    with IndexedDatasetWriter(tmp_path / "floats", np.dtype(dtype)) as writer:
        writer.add(np.array([1.0, 0.3, 2.9]), np.array([3]))
    with pytest.raises(
        InputError, match=r"floats.idx has dtype float\d\d; tokens must be integers"
    ):
        Corpus(tmp_path / "floats")


def test_what_is_no_regular_file_is_refused_without_waiting(prefix):
    for ending in (".idx", ".bin"):
        path = prefix.with_suffix(ending)
        whole = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(InputError, match=rf"corpus\{ending} is a pipe, not a regular file"):
            Corpus(prefix)
        path.unlink()
        path.write_bytes(whole)


def test_a_file_that_is_cut_after_the_corpus_was_opened_is_not_mapped(prefix):
    corpus = Corpus(prefix)
    truncate(prefix.with_suffix(".bin"), 4)
    with pytest.raises(InputError, match=r"has 68 bytes, but had 72 when"):
        corpus.tokens(2)


def test_empty_documents_have_no_tokens(tmp_path):
    assert write_corpus(tmp_path / "empty", [0, 0]).tokens(1).tolist() == []


@pytest.mark.parametrize("name", ["", "/", "."])
def test_an_empty_prefix_is_refused(name):
    with pytest.raises(InputError, match="is not the prefix of a corpus"):
        Corpus(name)


def test_a_corpus_without_documents_is_refused(tmp_path):
    with IndexedDatasetWriter(tmp_path / "none", np.dtype(np.int32)):
        pass
    with pytest.raises(InputError, match="holds no documents"):
        read_index(tmp_path / "none")
