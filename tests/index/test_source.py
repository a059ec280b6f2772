# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from megatron_packing.corpus.joined import open_corpus
from megatron_packing.corpus.lengths_file import LengthsFile
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.planning.settings import PlanSettings
from tests.conftest import write_corpus
from tests.index.manifest_file import edit_manifest, set_field

SETTINGS = PlanSettings(strategy="optimal", sequence_length=64)


def make(folder: Path, joined: bool = False) -> PackIndex:
    first = write_corpus(folder / "first", [20, 30, 40])
    second = write_corpus(folder / "second", [10, 50], seed=1)
    prefixes = f"{first.prefix},{second.prefix}:2" if joined else first.prefix
    return build_pack_index(open_corpus(prefixes), SETTINGS, folder / "packs")


@pytest.mark.parametrize("joined", [False, True])
def test_the_corpus_is_found_where_it_was_and_beside_a_copy_of_the_index(tmp_path, joined):
    made = tmp_path / "shared"
    made.mkdir()
    index = make(made, joined)
    assert open_source(index).prefix == Path(index.corpus.prefix)
    made.rename(tmp_path / "moved")
    copy = PackIndex.open(tmp_path / "moved" / "packs")
    corpus = open_source(copy)
    assert f"{tmp_path}/moved/first" in str(corpus.prefix)
    assert len(corpus) == (7 if joined else 3)


def test_a_copy_beside_the_index_is_read_rather_than_the_original(tmp_path):
    made, local = tmp_path / "shared", tmp_path / "local"
    made.mkdir()
    make(made)
    shutil.copytree(made, local)
    assert open_source(PackIndex.open(local / "packs")).prefix == local / "first"
    write_corpus(local / "first", [5, 6])  # not a copy
    assert open_source(PackIndex.open(local / "packs")).prefix == made / "first"


def test_a_corpus_that_is_nowhere_is_named_and_found_where_the_user_says(tmp_path):
    index = make(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in tmp_path.glob("first*"):
        shutil.move(path, elsewhere)
    with pytest.raises(UnreadableError, match=r"is neither at .*first, where it was, nor beside"):
        open_source(index)
    assert open_source(index, elsewhere / "first").prefix == elsewhere / "first"


@pytest.mark.parametrize("prefix", ["", "/", ".", ":2", "first,", "x" * 300, "a\x00b"])
def test_a_recorded_prefix_that_no_file_can_have_is_not_found(tmp_path, prefix):
    index = make(tmp_path)
    edit_manifest(index.path, set_field("corpus.prefix", prefix))
    with pytest.raises(UnreadableError, match="where it was, nor beside the index"):
        open_source(PackIndex.open(index.path))


def test_another_corpus_of_the_same_name_is_refused(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    index = make(made)
    write_corpus(made / "first", [20, 30, 40], seed=9)
    with pytest.raises(InputError, match="was made from another corpus than"):
        open_source(index)


def test_a_relative_corpus_is_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write_corpus(tmp_path / "data" / "first", [20, 30, 40])
    monkeypatch.chdir(tmp_path)
    build_pack_index(open_corpus("data/first"), SETTINGS, Path("packs/deep/one"))
    monkeypatch.chdir(tmp_path / "packs")
    assert open_source(PackIndex.open("deep/one")).prefix == tmp_path / "data" / "first"
    write_corpus(tmp_path / "data" / "first", [20, 30, 40], seed=9)
    with pytest.raises(InputError, match="was made from another corpus"):
        open_source(PackIndex.open("deep/one"))


def test_an_index_of_lengths_has_no_corpus(tmp_path):
    np.save(tmp_path / "lengths.npy", np.array([10, 20]))
    index = build_pack_index(LengthsFile(tmp_path / "lengths.npy"), SETTINGS, tmp_path / "packs")
    with pytest.raises(InputError, match="which has no tokens"):
        open_source(index)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tokenizer_sha256", "0" * 64, "its tokenizer is 000000000000, but that of .*first is ab"),
        ("largest_token", 7, r"its largest token is 7, but the record of .*first says [\d,]+;"),
    ],
)
def test_an_index_that_contradicts_the_record_of_its_corpus_is_refused(
    tmp_path, field, value, message
):
    corpus = write_corpus(tmp_path / "first", [20, 30, 40])
    largest = max(int(corpus.tokens(i).max()) for i in range(3))
    record = {"tokenizer": "x", "tokenizer_sha256": "ab" * 32, "largest_token": largest}
    (tmp_path / "first_corpus.json").write_text(json.dumps(record))
    index = build_pack_index(open_corpus(tmp_path / "first"), SETTINGS, tmp_path / "packs")
    assert open_source(index).prefix == tmp_path / "first"
    edit_manifest(index.path, set_field(f"corpus.{field}", value), digest="none")
    with pytest.raises(InputError, match=message):
        open_source(PackIndex.open(index.path))


@pytest.mark.parametrize(("epochs", "is_said"), [("", False), (":2", False), (":1.5", True)])
def test_a_changed_corpus_is_said_to_be_of_an_earlier_release_only_with_fractions(
    tmp_path, epochs, is_said
):
    write_corpus(tmp_path / "first", [20, 30, 40, 50])
    prefixes = f"{tmp_path / 'first'}{epochs}"
    index = build_pack_index(open_corpus(prefixes), SETTINGS, tmp_path / "packs")
    write_corpus(tmp_path / "first", [20, 30, 40, 50], seed=9)
    with pytest.raises(InputError, match="is now: it was changed") as refusal:
        open_source(index, prefixes)
    assert ("an earlier release" in str(refusal.value)) == is_said
