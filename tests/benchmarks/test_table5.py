# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.trainer import needs_trainer

pytest.importorskip("transformers")
pytest.importorskip("chitchat_dataset")

from benchmarks.study import table5
from benchmarks.study.results import read_results


def test_published_steps_bound_what_greedy_packing_lost():
    lines = {
        name.strip(): [cell.strip() for cell in cells]
        for name, *cells in (
            line.strip("| \n").split("|") for line in table5.published_table().splitlines()
        )
    }
    assert len(lines) == 2 + len(table5.PUBLISHED)
    # 728 steps of random packing hold all tokens; 492 of greedy packing at most 492 / 728 of them.
    *_, lost = lines["WildChat (GPT-4) 8B"]
    assert lost == "32%"
    assert lines["TULU 8B"][-1] == "0%"


@pytest.mark.slow
@needs_trainer
# chitchat-dataset leaves its file open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_padding_and_packing_are_timed_in_the_real_trainer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table5.demo, "SEQUENCE_LENGTH", 256)
    monkeypatch.setattr(table5, "ROW", 256)
    monkeypatch.setattr(table5, "MODES", ("rows",))
    csv = tmp_path / "table5.csv"
    words = ["table5", "--csv", csv, "--folder", tmp_path / "work", "--documents", "16"]
    words += ["--validation", "4", "--epochs", "2", "--ways", "padding", "optimal"]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    table5.main()
    padding, optimal = read_results(csv, table5.Timing)
    corpus = table5.prepare(tmp_path / "work", 20)
    lengths = np.asarray(corpus.num_tokens)[:16] - 1
    assert (padding.rows, padding.steps, padding.documents_per_step) == (16, 8, 4.0)
    lost = np.maximum(lengths - 256, 0).sum() / lengths.sum()
    assert padding.lost == pytest.approx(lost, abs=1e-4)
    assert optimal.lost == 0
    assert optimal.utilisation == pytest.approx(lengths.sum() / (256 * optimal.rows), abs=1e-4)
    assert optimal.steps == round(2 * optimal.rows / 4)
    for one in (padding, optimal):
        assert one.cpu_seconds > 0
        assert 5 < one.validation_loss < 10.5  # log 32,768 is 10.4
    first = csv.read_text()
    table5.main()  # nothing is missing
    assert csv.read_text() == first
    assert "| padding | rows | 16 |" in capsys.readouterr().out
    greedy = table5.make_index(corpus, table5.Way("", "greedy", "drop"), range(16))
    assert greedy.figures.num_positions == lengths[lengths <= 256].sum()
