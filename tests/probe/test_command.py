# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from megatron_packing.cli import main

WORDS = ["--documents", "3", "--sequence-length", "128", "--end-token", "3"]


def test_the_verb_prints_a_table_and_writes_json(checkpoint, corpus, tmp_path, capsys):
    record_path = tmp_path / "probe.json"
    words = ["probe", checkpoint, corpus.prefix, *WORDS, "--json", record_path]
    assert main([*map(str, words)]) == 0
    shown = capsys.readouterr().out
    record = json.loads(record_path.read_text())
    assert len(record["variants"]) == 8
    shares = np.array(record["variants"][0]["shares"])
    assert shares.shape == (2, 4, len(record["targets"]))
    for one in record["variants"]:
        means = np.mean(one["shares"], axis=(0, 1))
        (line,) = (
            line
            for line in shown.splitlines()
            if line.split()[:3]
            == [one["neighbors"], one["positions"], str(one["end_token"] or "-")]
        )
        assert f"{one['loss']:.3f}" in line
        assert f"{means[0]:.3f}" in line
        assert one["loss_change"] == pytest.approx(one["loss"] - record["alone"]["loss"])
    assert "With the end token 3, earlier documents" in shown


@pytest.mark.slow
def test_the_picture_has_a_cell_for_each_layer_and_head(checkpoint, corpus, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    picture = tmp_path / "probe.png"
    words = ["probe", checkpoint, corpus.prefix, *WORDS, "--picture", picture]
    assert main([*map(str, words)]) == 0
    pixels = imread(picture)[..., :3].reshape(-1, 3)
    assert len(np.unique((pixels * 255).astype(int), axis=0)) > 2 * 4  # shades of cells


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--documents", "1"], "--documents is 1; it must be 2 or more"),
        (["--picture", "probe.txt"], "--picture is probe.txt; its name must end in .svg"),
        (["--picture", "nowhere/probe.svg"], "in a folder that does not exist"),
    ],
)
def test_wrong_flags_are_refused(checkpoint, corpus, words, problem, capsys):
    assert main([*map(str, ["probe", checkpoint, corpus.prefix, *words])]) != 0
    assert problem in capsys.readouterr().err
