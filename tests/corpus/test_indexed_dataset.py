from __future__ import annotations

import numpy as np
import pytest

from megatron_packing import Corpus
from megatron_packing.corpus.indexed_dataset import DTYPE_CODES, IndexedDatasetWriter, read_index
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
        (lambda p: truncate(p.with_suffix(".bin"), 1), r"corpus.bin has 71 bytes .* expects 72"),
        (lambda p: truncate(p.with_suffix(".idx"), 5), r"corpus.idx has .* truncated or damaged"),
        (
            lambda p: p.with_suffix(".idx").write_bytes(b""),
            "less than a Megatron index begins with",
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


def test_a_corpus_without_documents_is_refused(tmp_path):
    with IndexedDatasetWriter(tmp_path / "none", np.dtype(np.int32)):
        pass
    with pytest.raises(InputError, match="holds no documents"):
        read_index(tmp_path / "none")
