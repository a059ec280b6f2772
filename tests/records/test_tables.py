# SPDX-License-Identifier: Apache-2.0
"""Files that must not be read as one corpus are refused: of tables, of splits, the same twice."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("fsspec")
pytest.importorskip("pyarrow")

import fsspec
import pyarrow
import pyarrow.parquet

from megatron_packing.errors import InputError
from megatron_packing.records.inputs import find_inputs


@pytest.fixture
def write(tmp_path):
    """Write files of one record each, Parquet or JSON Lines by their names."""

    def write(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".parquet"):
                pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), path)
            else:
                path.write_text(json.dumps({"text": name}) + "\n")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (("t/_delta_log/00000000000000000000.json", "t/p.parquet"), "a Delta table"),
        (("t/_delta_log/00000000000000000000.json", "t/day=1/x=2/p.parquet"), "a Delta table"),
        (("t/_delta_log/00000000000000000000.json", "t/Ab/p.parquet"), "a Delta table"),
        (("t/metadata/v1.metadata.json", "t/data/day=1/p.parquet"), "an Iceberg table"),
        (("t/metadata/v1.metadata.json", "t/data/p.parquet"), "an Iceberg table"),
        (("t/.hoodie/hoodie.properties", "t/p.parquet"), "a Hudi table"),
    ],
)
def test_files_of_tables_are_refused(write, files, kind):
    folder = write(*files)
    sentence = rf"belongs to {kind}, \S*/t, whose folder also holds deleted and replaced rows"
    for pattern in (folder / "t" / "**" / "*.parquet", folder / files[1], folder / "t"):
        with pytest.raises(InputError, match=sentence):
            find_inputs([str(pattern)])
    memory = fsspec.filesystem("memory")
    for name in files:
        memory.pipe(f"/lake/{name}", (folder / name).read_bytes())
    try:
        with pytest.raises(InputError, match=f"belongs to {kind}"):
            find_inputs(["memory://lake/t/**/*.parquet"])
    finally:
        memory.rm("/lake", recursive=True)


def test_parquet_beside_other_folders_is_read(write):
    folder = write("t/p.parquet", "t/metadata/readme.json", "data/q.parquet", "day=1/r.parquet")
    assert len(find_inputs([str(folder / "**" / "*.parquet")])) == 3


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("train.jsonl", "valid.jsonl"),
        ("a/train/0000.parquet", "a/test/0000.parquet"),
        ("training_a.jsonl", "dev.jsonl"),
    ],
)
def test_a_glob_that_joins_splits_is_refused(write, names):
    folder = write(*names)
    with pytest.raises(
        InputError, match=r"joins the splits \w+ and \w+ of a data set \(.*make one"
    ):
        find_inputs([str(folder / "**" / "*.*")])
    assert len(find_inputs([str(folder / names[0])])) == 1


def test_a_glob_of_one_split_is_read(write):
    folder = write("train/test_run.jsonl", "train/train-1.jsonl", "trainer.jsonl", "tests.jsonl")
    assert len(find_inputs([str(folder / "train*.jsonl")])) == 1
    assert len(find_inputs([str(folder / "t*s*.jsonl")])) == 1
    with pytest.raises(InputError, match="joins the splits"):
        find_inputs([str(folder / "train" / "*.jsonl")])


def test_shards_of_two_splits_are_refused_however_they_are_given(write):
    names = ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet")
    folder = write(*names)
    with pytest.raises(InputError, match="the inputs join the splits train and test"):
        find_inputs([str(folder / name) for name in names])
    # Who names two files of other names means both.
    folder = write("train.jsonl", "extra/valid.jsonl")
    assert len(find_inputs([str(folder / "train.jsonl"), str(folder / "extra/valid.jsonl")])) == 2


def test_one_file_under_two_spellings_is_refused(write, monkeypatch):
    folder = write("in/x.jsonl", "in/y.jsonl")
    (folder / "link.jsonl").symlink_to(folder / "in" / "x.jsonl")
    os.link(folder / "in" / "x.jsonl", folder / "hard.jsonl")
    monkeypatch.chdir(folder)
    first = "in/x.jsonl"
    for other in (
        *("in//x.jsonl", "in/../in/x.jsonl", "./in/x.jsonl", "link.jsonl", "hard.jsonl"),
        *(f"file://{folder}/in/x.jsonl", "in/*.jsonl", first),
    ):
        with pytest.raises(InputError, match=r"is given twice(, also as \S+)?; give it once"):
            find_inputs([first, other])
    assert len(find_inputs([first, "in/y.jsonl"])) == 2
