# SPDX-License-Identifier: Apache-2.0
"""A path of one kind in the place of another: one sentence says what it is and what to do."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_packing.cli import main
from tests.commands.test_cli import fails
from tests.conftest import write_corpus

ROW = ("--sequence-length", "64")


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    """Two corpora, one with a pack index, and inputs of other kinds."""
    (tmp_path / "data").mkdir()
    (tmp_path / "empty").mkdir()
    write_corpus(tmp_path / "data" / "chat", [20, 30, 40])
    write_corpus(tmp_path / "data" / "code.v2", [20, 30, 40])
    (tmp_path / "chat.jsonl").write_text('{"text": "a"}\n')
    np.save(tmp_path / "lengths.npy", np.array([3, 4]))
    monkeypatch.chdir(tmp_path)
    assert main(["pack", "data/chat", *ROW, "--output", "data/packs"]) == 0
    capsys.readouterr()
    return tmp_path


GIVEN_FOR_CORPUS = [
    ("data/chat.bin", "data/chat.bin is a file of the corpus data/chat: give data/chat"),
    ("data/chat.idx", "data/chat.idx is a file of the corpus data/chat: give data/chat"),
    ("data/code.v2.bin", "is a file of the corpus data/code.v2: give data/code.v2"),
    ("data/chat_loss_mask.bin", "is a file of the corpus data/chat: give data/chat"),
    ("data", "data is a folder: give the prefix of a corpus in it: data/chat, data/code.v2"),
    ("empty", "empty is a folder without a corpus (.bin and .idx files)"),
    ("data/packs", "data/packs is a pack index, not a corpus: give the prefix of a corpus"),
    ("chat.jsonl", "make a corpus of it with: megatron-packing tokenize chat.jsonl --output-pre"),
    ("lengths.npy", "if it holds lengths, pack it with --lengths lengths.npy"),
    ("nothing", "nothing.idx does not exist; give the prefix of a Megatron corpus"),
]


@pytest.mark.parametrize(("given", "message"), GIVEN_FOR_CORPUS)
def test_what_was_given_for_a_corpus_is_named(folder, capsys, given, message):
    assert message in fails(capsys, "pack", given, *ROW, "--output", "out")
    assert message in fails(capsys, "compare", given, *ROW)
    assert not (folder / "out").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("given", "message"), [GIVEN_FOR_CORPUS[0], GIVEN_FOR_CORPUS[7]])
def test_what_was_given_to_show_is_named(capsys, given, message):
    assert message in fails(capsys, "show", given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "data/chat",
            "data/chat is a corpus: make one with: megatron-packing pack data/chat --seq",
        ),
        ("data/chat.idx", "is a corpus: make one with: megatron-packing pack data/chat --sequence"),
        ("data", "data is a folder that holds the pack indexes data/packs: give one"),
        ("chat.jsonl", "if it holds conversations or texts, make a corpus of it with: megatron-pa"),
        ("empty", "there is no empty/manifest.json; make one with megatron-packing pack"),
        ("nothing", "there is no nothing/manifest.json; make one with megatron-packing pack"),
    ],
)
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("verify", ()),
        ("show", ("--pack", "0")),
        ("export", ("--format", "nemo-npy", "--end-token", "2", "--output", "out")),
    ],
)
def test_what_was_given_for_an_index_is_named(capsys, command, options, given, message):
    found = fails(capsys, command, given, *options)
    assert f"{given} is not a pack index: " in found
    assert message in found


def test_a_folder_of_corpora_is_no_index_and_names_them(folder, capsys):
    for path in (folder / "data" / "packs").iterdir():
        path.unlink()
    message = fails(capsys, "show", "data")
    assert "data is a folder that holds the corpora data/chat, data/code.v2: make one" in message
