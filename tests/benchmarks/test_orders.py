# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import pytest

from tests.trainer import PRETRAIN_PACKED, needs_trainer, run_script

pytest.importorskip("transformers")
pytest.importorskip("chitchat_dataset")

from benchmarks.study import orders
from benchmarks.study.results import append_result, read_results


def test_orders_are_compared_seed_by_seed(tmp_path):
    csv = tmp_path / "orders.csv"
    assert orders.orders_table(csv) == "No run has ended yet.\n"
    losses = {("random", 1): 5.0, ("even", 1): 5.02, ("random", 2): 5.1, ("even", 2): 5.1}
    for (order, seed), loss in {**losses, ("random", 3): 9.0}.items():  # no pair for the last yet
        run = orders.Ordered(
            order=order,
            seed=seed,
            documents=1,
            rows=1,
            steps=1,
            last_training_loss=loss,
            validation_loss=loss,
        )
        append_result(csv, run, "made by hand")
    *_, random, even = orders.orders_table(csv).splitlines()
    assert random == "| `--packing-order random` | 5.0000 5.1000 | 5.0500 | 0.0707 | +0.0000 |"
    assert even == "| `--packing-order even` | 5.0200 5.1000 | 5.0600 | 0.0566 | +0.0100 |"


def train_in_server(name, folder, index, steps, rows, flags, *, ranks):
    """As demo.train, in ranks that are forked: torchrun's import Megatron for a minute."""
    words = [*orders.demo.trainer_flags(folder, index, steps, rows), *flags.split()]
    run = run_script([str(PRETRAIN_PACKED), *words], ranks)
    (folder / f"{name}.log").write_text(run.output)
    return orders.demo.Run([step.loss for step in run.steps], [])


@pytest.mark.slow
@needs_trainer
# chitchat-dataset leaves its file open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_both_orders_are_trained_on_the_same_packs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(orders, "ROW", 128)
    monkeypatch.setattr(orders, "RANKS", 2)
    monkeypatch.setattr(orders, "ROWS_PER_STEP", 4)
    monkeypatch.setattr(orders, "VOCABULARY", 512)
    monkeypatch.setattr(orders.demo, "train", train_in_server)
    csv = tmp_path / "orders.csv"
    words = ["orders", "--csv", csv, "--folder", tmp_path / "work", "--documents", "4"]
    words += ["--validation", "2", "--epochs", "1", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    orders.main()
    random, even = read_results(csv, orders.Ordered)
    assert (random.order, even.order) == orders.ORDERS
    assert random.rows == even.rows
    assert random.steps == even.steps == random.rows // 4 > 2
    assert random.last_training_loss != even.last_training_loss
    first = csv.read_text()
    orders.main()  # nothing is missing
    assert csv.read_text() == first
    assert "| `--packing-order even` |" in capsys.readouterr().out
