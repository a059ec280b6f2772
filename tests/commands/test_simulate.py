# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing simulate`` as its users type it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from megatron_packing.cli import main
from megatron_packing.commands.simulate import JSON_KEYS
from megatron_packing.simulate.epoch import WAYS
from tests.commands.test_cli import fails
from tests.conftest import chat_like_lengths, write_corpus

SMALL = ["--sequence-length", "1024", "--global-batch-size", "16", "--gpus", "16", "--steps", "4"]


@pytest.fixture
def lengths(tmp_path):
    path = tmp_path / "lengths.npy"
    np.save(path, chat_like_lengths(3000, longest=1024))
    return path


def simulated(capsys, tmp_path, *words):
    path = tmp_path / "figures.json"
    assert main(["simulate", *map(str, words), "--json", str(path)]) == 0
    return capsys.readouterr().out, json.loads(path.read_text(encoding="utf-8"))


def test_it_shows_ways_side_by_side(lengths, tmp_path, capsys):
    words = ("--lengths", lengths, *SMALL)
    output, record = simulated(capsys, tmp_path, *words)
    assert set(record) == set(JSON_KEYS)
    ways = {way["way"]: way for way in record["ways"]}
    assert list(ways) == list(WAYS)
    assert ways["padding"]["speed_up"] == 1
    assert ways["optimal"]["num_rows"] < ways["greedy"]["num_rows"] < ways["padding"]["num_rows"]
    balanced = ways["optimal, balanced"]["step_seconds"]
    assert balanced <= ways["optimal"]["step_seconds"] * (1 + 1e-9)
    for way in record["ways"]:
        assert sum(way["parts_of_a_step"].values()) == pytest.approx(way["step_seconds"])
        assert way["epoch_seconds"] == pytest.approx(way["steps"] * way["step_seconds"])
    assert f"{ways['optimal']['speed_up']:.2f}" in output
    assert simulated(capsys, tmp_path, *words)[1] == record


@pytest.mark.parametrize("virtual", [1, 2])
def test_the_timeline_has_every_pass(lengths, tmp_path, capsys, virtual):
    picture = tmp_path / "timeline.svg"
    layout = ("--pipeline-parallel", 4, "--virtual-pipeline", virtual, "--timeline", picture)
    words = ("--lengths", lengths, *SMALL, *layout, "--tensor-parallel", 2)
    output, record = simulated(capsys, tmp_path, *words)
    assert f"wrote {picture}: a step of optimal, balanced" in output
    assert record["layout"]["pipeline"] == 4
    root = ElementTree.parse(picture).getroot()
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    passes = [title for title in titles if " of micro-batch " in title]
    rows_of_a_rank = 16 // record["layout"]["data"]
    assert len(passes) == 4 * virtual * 2 * rows_of_a_rank
    assert sum(title.startswith("forward") for title in passes) == len(passes) // 2


def test_an_index_is_simulated_as_it_is(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(800, longest=257))
    index = tmp_path / "index"
    pack = ["pack", str(corpus.prefix), "--sequence-length", "256", "--output", str(index)]
    assert main(pack) == 0
    capsys.readouterr()
    layout = ("--global-batch-size", 16, "--gpus", 16)
    _, of_index = simulated(capsys, tmp_path, "--index", index, *layout)
    _, of_corpus = simulated(capsys, tmp_path, corpus.prefix, "--sequence-length", 256, *layout)
    assert [way["way"] for way in of_index["ways"]] == list(WAYS)[-3:]
    for one, other in zip(of_index["ways"], of_corpus["ways"][-3:], strict=True):
        assert one | {"speed_up": 0} == other | {"speed_up": 0}
    for words, message in (
        ((corpus.prefix, "--index", index), "is given together with"),
        (("--index", index, "--sequence-length", 128), "has rows of 256"),
        (("--index", index, "--context-parallel", 2), "needs a multiple of 4: make it again"),
    ):
        assert message in fails(capsys, "simulate", *words, *layout)


def test_models_gpus_and_links_are_taken(lengths, tmp_path, capsys):
    words = ("--lengths", lengths, *SMALL)
    usual = simulated(capsys, tmp_path, *words)[1]["ways"][3]["step_seconds"]

    def changed(*more):
        return simulated(capsys, tmp_path, *words, *more)[1]["ways"][3]["step_seconds"]

    assert changed("--gpu", "a100") > 2 * usual
    assert changed("--gpu-tflops", "100") > 5 * usual
    assert changed("--linear-efficiency", "0.3") > 1.3 * usual
    assert changed("--network-bandwidth", "0.1", "--node-bandwidth", "1") > 2 * usual
    assert changed("--layers", "16") < usual
    experts = ("--experts", "8", "--experts-per-token", "2", "--expert-parallel", "4")
    _, record = simulated(capsys, tmp_path, *words, *experts)
    assert record["layout"]["expert"] == 4
    assert record["ways"][3]["parts_of_a_step"]["experts_wait"] > 0
    _, record = simulated(capsys, tmp_path, *words, "--context-parallel", "4")
    assert record["alignment"] == 8


def test_long_rows_of_a_large_model_on_thousands_of_gpus_are_predicted(tmp_path, capsys):
    path = tmp_path / "lengths.npy"
    sampled = np.random.default_rng(0).lognormal(7, 1.6, 100_000)
    np.save(path, np.clip(sampled, 1, 131_072).astype(np.int64))
    words = ("--sequence-length", 131_072, "--gpus", 4096, "--model", "405b", "--steps", 4)
    _, record = simulated(capsys, tmp_path, "--lengths", path, *words)
    assert record["gpus"] == 4096
    assert record["memory_bytes"] < 80e9
    ways = {way["way"]: way for way in record["ways"]}
    in_turn, balanced = ways["optimal"], ways["optimal, balanced"]
    assert balanced["step_over_equal_micro_batches"] < in_turn["step_over_equal_micro_batches"]


def test_bad_input_gets_one_sentence(lengths, capsys):
    simulate = ["simulate", "--lengths", lengths, *SMALL]
    for words, message in (
        (("--gpus", 0), "--gpus is 0; it must be at least 1"),
        (("--steps", 0), "--steps is 0; it must be at least 1"),
        (("--gpu-tflops", -1), "--gpu-tflops is -1; it must be above 0"),
        (("--linear-efficiency", 2), "--linear-efficiency is 2; it is a share, at most 1"),
        (("--virtual-pipeline", 2, "--pipeline-parallel", 1), "but there is one pipeline stage"),
        (("--tensor-parallel", 3), "16 GPUs are no multiple of 3"),
        (("--experts-per-token", 2), "2 of 1 experts"),
        (("--model", "405b"), "the least of those that were tried"),
        (("--context-parallel", 2, "--alignment", 2), "needs a multiple of 4"),
        (("--sequence-length", 0), "--sequence-length is 0"),
        (("--sequence-length", 512), "longer than the sequence length 512"),
        (
            (
                *("--tensor-parallel", 1, "--pipeline-parallel", 1),
                *("--context-parallel", 1, "--model", "70b"),
            ),
            "needs about",
        ),
    ):
        assert message in fails(capsys, *simulate, *words), words
    message = fails(capsys, "simulate", "--lengths", lengths, "--gpus", 8)
    assert "--sequence-length is not given" in message


def test_hybrid_models_are_refused(lengths, capsys):
    words = ["simulate", "--lengths", str(lengths), *SMALL, "--hybrid-layer-pattern", "M-*-"]
    assert "steps are predicted for transformer layers alone" in fails(capsys, *words)
