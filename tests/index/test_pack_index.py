from __future__ import annotations

import json
import pickle
import re
import shutil
from itertools import chain

import numpy as np
import pytest

from megatron_packing import Corpus, PackIndex
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import REQUIRED_ARRAYS, PlanSettings
from megatron_packing.index.verify import verify_pack_index
from tests.conftest import chat_like_lengths, write_corpus


def settings(**changes):
    defaults = {
        "strategy": "first_fit_decreasing",
        "sequence_length": 128,
        "overlong": "error",
        "packs_multiple_of": 1,
        "seed": 0,
    }
    return PlanSettings(**{**defaults, **changes})


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", chat_like_lengths(300, longest=129))


@pytest.fixture
def index(corpus, tmp_path):
    return build_pack_index(corpus, settings(), tmp_path / "index")


def test_what_was_written_is_opened_memory_mapped(index):
    again = PackIndex.open(index.path)
    assert again.plan == settings()
    assert again.figures.num_packs == len(again)
    assert isinstance(again.document_ids, np.memmap)
    assert again.segment_starts is None


def test_the_digest_is_that_of_the_packs(corpus, index, tmp_path):
    again = build_pack_index(corpus, settings(), tmp_path / "again")
    assert again.digest == index.digest == PackIndex.open(index.path).digest
    assert re.fullmatch("[0-9a-f]{64}", index.digest)
    others = [settings(seed=1), settings(strategy="greedy"), settings(sequence_length=129)]
    digests = {
        build_pack_index(corpus, plan, tmp_path / f"{number}").digest
        for number, plan in enumerate(others)
    }
    assert len({index.digest, *digests}) == 4


def test_an_index_without_split_documents_has_no_segment_arrays(index):
    assert sorted(path.name for path in index.path.iterdir()) == [
        "document_ids.npy",
        "length_offsets.npy",
        "manifest.json",
        "pack_offsets.npy",
        "places_by_length.npy",
    ]


@pytest.mark.parametrize("changes", [{}, {"strategy": "random"}, {"alignment": 10}])
def test_epochs_have_the_same_segments_and_geometry_but_other_neighbours(corpus, tmp_path, changes):
    plan = settings(sequence_length=100, overlong="split", **changes)
    index = build_pack_index(corpus, plan, tmp_path / "epochs")

    def packs(epoch, seed=3):
        return [
            list(index.segments(pack, corpus.num_tokens, epoch=epoch, seed=seed))
            for pack in range(len(index))
        ]

    def aligned(rows):
        return [[-(-n // plan.alignment) for _, _, n in row] for row in rows]

    planned, second, third = packs(0), packs(1), packs(2)
    assert aligned(planned) == aligned(second) == aligned(third)
    assert sorted(chain(*planned)) == sorted(chain(*second)) == sorted(chain(*third))
    assert len({str(rows) for rows in (planned, second, third, packs(1, seed=4))}) == 4
    assert second == packs(1)


def test_the_same_corpus_and_plan_give_the_same_bytes(corpus, index, tmp_path):
    again = build_pack_index(corpus, settings(), tmp_path / "again")
    for path in index.path.iterdir():
        assert path.read_bytes() == (again.path / path.name).read_bytes()


def test_segments_are_slices_of_documents(corpus, tmp_path):
    index = build_pack_index(
        corpus, settings(sequence_length=50, overlong="split"), tmp_path / "split"
    )
    covered = np.zeros(len(corpus), np.int64)
    for pack in range(len(index)):
        segments = index.segments(pack, corpus.num_tokens)
        assert segments.lengths.sum() <= 50
        np.add.at(covered, segments.document_ids, segments.lengths)
    assert np.array_equal(covered, np.asarray(corpus.num_tokens) - 1)


def test_documents_without_a_position_are_counted_and_left_out(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 1, 7, 0, 9])
    index = build_pack_index(corpus, settings(), tmp_path / "index")
    assert sorted(index.document_ids) == [0, 2, 4]
    assert index.figures.num_documents_empty == 2
    verify_pack_index(index, corpus.num_tokens)


def test_a_range_of_documents_is_packed(corpus, tmp_path):
    index = build_pack_index(corpus, settings(), tmp_path / "part", documents=range(100, 200))
    assert sorted(index.document_ids) == list(range(100, 200))
    verify_pack_index(index, corpus.num_tokens)


def test_a_copy_of_an_index_in_another_process_opens_the_files_anew(index):
    copy = pickle.loads(pickle.dumps(index))
    assert isinstance(copy.document_ids, np.memmap)
    assert np.array_equal(copy.document_ids, index.document_ids)
    assert len(pickle.dumps(index)) < 1000


def test_a_copy_of_the_corpus_is_accepted_and_another_corpus_is_not(corpus, index, tmp_path):
    copies = tmp_path / "elsewhere"
    copies.mkdir()
    for path in tmp_path.glob("corpus*"):
        shutil.copy(path, copies)
    index.check_corpus(copies / "corpus", Corpus(copies / "corpus").fingerprint)
    other = write_corpus(tmp_path / "other", corpus.num_tokens, seed=1)
    with pytest.raises(InputError, match=r"made from another corpus than .*other"):
        index.check_corpus(other.prefix, other.fingerprint)


def test_an_existing_folder_is_not_touched(corpus, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (output / "precious").write_text("mine")
    with pytest.raises(InputError, match=r"output exists already"):
        build_pack_index(corpus, settings(), output)
    assert [path.name for path in output.iterdir()] == ["precious"]


def test_an_overlong_document_is_named_and_nothing_is_written(corpus, tmp_path):
    with pytest.raises(InputError, match=r"corpus has .* longer than the sequence length 64 .*"):
        build_pack_index(corpus, settings(sequence_length=64), tmp_path / "index")
    assert not [path for path in tmp_path.iterdir() if "index" in path.name]


def test_dropping_every_document_is_refused(corpus, tmp_path):
    plan = settings(sequence_length=1, overlong="drop")
    lengths = [length for length in corpus.num_tokens if length > 2]
    corpus = write_corpus(tmp_path / "long", lengths)
    with pytest.raises(InputError, match=r"every document of .* would be dropped"):
        build_pack_index(corpus, plan, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_failure_while_writing_leaves_nothing(corpus, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "document_ids.npy")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"index cannot be written.*No space left.*document_ids"):
        build_pack_index(corpus, settings(), tmp_path / "index")
    assert not [path for path in tmp_path.iterdir() if "index" in path.name]


def damage_manifest(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: shutil.rmtree(path), "is not a pack index"),
        (lambda path: (path / "manifest.json").unlink(), "is not a pack index"),
        (lambda path: (path / "manifest.json").write_text("{"), "cannot be read"),
        (lambda path: (path / "manifest.json").write_text("[]"), "not the manifest"),
        (lambda path: damage_manifest(path, format_version=99), "format version 99"),
        (lambda path: damage_manifest(path, arrays={}), "does not list"),
        (lambda path: damage_manifest(path, plan={}), "lacks a field"),
        (lambda path: damage_manifest(path, arrays=list(REQUIRED_ARRAYS)), "lacks a"),
        (
            lambda path: damage_manifest(path, arrays={name: {} for name in REQUIRED_ARRAYS}),
            "lacks a field",
        ),
        (lambda path: (path / "document_ids.npy").unlink(), "document_ids.npy cannot be opened"),
        (lambda path: (path / "pack_offsets.npy").write_bytes(b"x"), "cannot be opened"),
        (lambda path: np.save(path / "document_ids.npy", np.arange(3)), "where the manifest says"),
    ],
)
def test_a_damaged_index_is_refused_with_the_file_named(index, damage, message):
    damage(index.path)
    with pytest.raises(InputError, match=message):
        PackIndex.open(index.path)


def test_a_truncated_array_is_refused(index):
    path = index.path / "document_ids.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"document_ids.npy cannot be opened"):
        PackIndex.open(index.path)


def test_pickled_arrays_are_not_loaded(index):
    np.save(index.path / "document_ids.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"document_ids.npy cannot be opened"):
        PackIndex.open(index.path)
