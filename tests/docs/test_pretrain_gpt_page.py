# SPDX-License-Identifier: Apache-2.0
"""What the page about changing pretrain_gpt.py shows trains on packed rows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import chat_like_lengths, write_corpus
from tests.docs.pages import blocks
from tests.limits import TIME_LIMIT
from tests.trainer import ROW, needs_trainer, pretrain, train

BEFORE = Path(__file__).with_name("pretrain_own_gpt.py")
PAGE = "pretrain-gpt.md"


def block(kind: str, number: int) -> str:
    (text,) = [one.text for one in blocks(PAGE) if (one.kind, one.number) == (kind, number)]
    return text


@pytest.fixture
def after(tmp_path) -> Path:
    """The script of before, with the page's diff."""
    shutil.copy(BEFORE, tmp_path)
    process = subprocess.run(
        ["git", "apply", "-p0", "-"],
        input=block("diff", 0),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return tmp_path / BEFORE.name


@pytest.fixture
def data(tmp_path) -> str:
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(150, longest=ROW))
    return f"--data-path {corpus.prefix} --data-cache-path {tmp_path / 'cache'} --train-iters 3"


@pytest.mark.slow
@needs_trainer
def test_the_script_of_before_trains(data):
    assert len(train(data, script=BEFORE, check=None).steps) == 3


@pytest.mark.slow
@needs_trainer
def test_the_diff_makes_it_train_as_the_example_does(data, after):
    assert train(data, script=after).steps == train(data).steps


@pytest.mark.slow
@needs_trainer
def test_its_own_gpt_model_is_refused_where_a_hybrid_model_is_asked_for(data, after):
    run = pretrain(f"{data} --hybrid-layer-pattern *-*-", script=after)
    assert run.status != 0
    assert "error: --hybrid-layer-pattern is *-*-, but this script builds another" in run.output
    assert not run.steps


@pytest.mark.slow
@needs_trainer
def test_a_loss_of_its_own_trains_as_the_example_does(data, after):
    """The page's own forward step, in place of that of the diff."""
    script, name = after.read_text(encoding="utf-8"), ", forward_step"
    assert script.count(name) == 1
    head, main, rest = script.replace(name, "").partition("\n\ndef main():")
    after.write_text(f"{head}\n\n{block('python', 0)}\n{main}{rest}", encoding="utf-8")
    run = train(data, script=after)
    assert [step.loss for step in run.steps] == [step.loss for step in train(data).steps]


@pytest.mark.slow
def test_a_loop_of_its_own_trains_a_row_with_any_megatron_core(example_data, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("megatron.core")
    shutil.copytree(example_data, tmp_path, dirs_exist_ok=True)
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", block("python", 1)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    loss, _, rest = process.stdout.splitlines()[-1].partition(" over ")
    assert rest == "1920 trained tokens"
    assert 10 < float(loss) < 11
