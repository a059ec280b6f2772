# SPDX-License-Identifier: Apache-2.0
"""compare and pack say how long ranks wait for each other."""

from __future__ import annotations

import json

import pytest

from megatron_packing.cli import main
from tests.conftest import chat_like_lengths, write_corpus

LAYOUT = ("--global-batch-size", "16", "--data-parallel", "4")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return write_corpus(folder / "corpus", chat_like_lengths(2000, longest=257)).prefix


def told(capsys, tmp_path, *words):
    path = tmp_path / "figures.json"
    assert main([*map(str, words), "--json", str(path)]) == 0
    return capsys.readouterr().out, json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("stages", [1, 4])
def test_compare_and_pack_say_the_same_of_the_same_packs(prefix, tmp_path, capsys, stages):
    words = (prefix, "--sequence-length", 256, *LAYOUT, "--pipeline-parallel", stages)
    output, compared = told(capsys, tmp_path, "compare", *words)
    assert output.count("step /") == (stages > 1)
    packed_output, packed = told(capsys, tmp_path, "pack", *words, "--output", tmp_path / "index")
    assert packed["waiting"] == compared["waiting"]
    assert "slowest" in packed_output
    orders = compared["waiting"]
    assert list(orders) == ["random", "balanced", "even"]
    assert orders["balanced"]["slowest_rank"] < orders["random"]["slowest_rank"]
    assert orders["even"]["slowest_micro_batch"] < orders["balanced"]["slowest_micro_batch"]


def test_nothing_is_said_unless_asked(prefix, tmp_path, capsys):
    output, record = told(capsys, tmp_path, "compare", prefix, "--sequence-length", 256)
    assert record["waiting"] == {}
    assert "slowest" not in output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--data-parallel", 0), "--data-parallel is 0; it must be at least 1"),
        (("--data-parallel", 3), "--global-batch-size is 128, no multiple of the 3 of"),
        (("--pipeline-parallel", 4), "--pipeline-parallel is given without --data-parallel"),
        (
            ("--data-parallel", 2, "--virtual-pipeline", 2),
            "an interleaved schedule needs two stages or more",
        ),
        (
            ("--data-parallel", 64, "--virtual-pipeline", 2, "--pipeline-parallel", 4),
            "4 pipeline stages and 2 rows a rank",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["compare", "pack"])
def test_impossible_layouts_are_refused(prefix, tmp_path, capsys, verb, words, sentence):
    output = ("--output", tmp_path / "index") if verb == "pack" else ()
    command = [verb, prefix, "--sequence-length", 256, *words, *output]
    assert main(list(map(str, command))) != 0
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "index").exists()
