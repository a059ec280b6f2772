# SPDX-License-Identifier: Apache-2.0
"""The README says nothing that was not run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from megatron_packing.cli import main
from tests.bridge.conftest import BRIDGE
from tests.conftest import ROOT, chat_like_lengths, write_corpus
from tests.docs.commands import run_command, without_seconds
from tests.limits import TIME_LIMIT
from tests.trainer import PRETRAIN_PACKED, ROW, needs_trainer, train

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def test_it_is_a_screen_and_a_half():
    assert README.count("\n") < 150


def test_every_block_is_known():
    """A block of another kind would be run by no test."""
    languages = " ".join(name for name, _ in BLOCKS)
    # docs/bridge.md has all of the recipe, of which the block of python is a part.
    assert languages == "text sh text console sh sh python"


def test_the_recipe_is_a_part_of_the_one_in_the_documentation():
    whole = (ROOT / "docs" / "bridge.md").read_text(encoding="utf-8")
    for line in blocks("python")[0].splitlines():
        assert line.partition("  # ")[0] in whole


@pytest.mark.slow
def test_the_commands_print_what_the_readme_shows(tmp_path):
    pytest.importorskip("transformers")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", blocks("console")[0], re.MULTILINE)
    assert len(steps) == 5
    for command, expected in steps:
        process = run_command(command, tmp_path)
        assert process.returncode == 0, process.stderr
        assert without_seconds(process.stdout) == without_seconds(expected)


@pytest.mark.slow
@pytest.mark.skipif(BRIDGE < (0, 6), reason="Bridge has these functions in one module from 0.6 on")
def test_the_table_of_ways_to_batch_is_what_its_script_prints(chitchat, tmp_path):
    words = ["--tokenizer", str(chitchat / "tokenizer"), "--output-prefix", str(tmp_path / "chat")]
    assert main(["tokenize", str(chitchat / "conversations.jsonl"), *words]) == 0
    printed = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "peers.py", tmp_path / "chat"],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=True,
    ).stdout
    assert without_seconds(printed) == without_seconds(blocks("text")[0])


@needs_trainer
def test_the_flags_train(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(200, longest=300))
    command = blocks("sh")[1]
    script, _, flags = command.replace("\\\n", " ").partition("$MODEL_AND_OPTIMIZER")
    assert script.split()[0] == "torchrun"
    assert ROOT / script.split()[-1] == PRETRAIN_PACKED
    flags = flags.replace("data/chat", str(corpus.prefix))
    run = train(f"{flags} --train-iters 2 --eval-iters 1", ranks=2)
    assert len(run.steps) == 2
    assert len(run.evaluations) == 1
    assert "validation loss at iteration 2" in run.output


@needs_trainer
def test_an_index_made_beforehand_trains(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(200, longest=300))
    pack, torchrun = blocks("sh")[2].splitlines()
    index = str(tmp_path / "packs")
    words = pack.replace("data/chat_8192", index).replace("data/chat", str(corpus.prefix))
    words = words.replace(" 8192 ", f" {ROW} ").replace("--packs-multiple-of 64", "")
    assert main(shlex.split(words)[1:]) == 0
    flags = torchrun.partition("... ")[2].replace("data/chat_8192", index)
    made_at_the_start = blocks("sh")[1].replace("\\\n", " ").partition("$MODEL_AND_OPTIMIZER")[2]
    others = made_at_the_start.replace("data/chat", str(corpus.prefix))
    others = others.replace("--split 98,2,0 --packing-overlong split", "--split 100,0,0")
    assert len(train(f"{others} {flags} --train-iters 2 --eval-iters 0").steps) == 2


def test_the_make_commands_are_the_makefiles():
    commands = [line.partition("  #")[0] for line in blocks("sh")[0].splitlines()]
    assert commands == ["make demo", "make test", "make docs"]
    for command in [*commands, "make test-all"]:
        assert command in README
        subprocess.run(
            [*command.split(), "--dry-run"],
            cwd=ROOT,
            capture_output=True,
            timeout=TIME_LIMIT,
            check=True,
        )


@pytest.mark.slow
@needs_trainer
def test_make_demo_prints_the_table_of_the_readme(tmp_path):
    """Processor times differ; rows, tokens and steps do not, losses fall, and packing pays."""
    process = subprocess.run(
        ["make", "demo", f"DEMO={tmp_path / 'demo'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]

    def table(text: str) -> dict[str, tuple[str, str]]:
        rows = re.findall(r"│ (.*?) +│ +([\d.,%]+) │ +([\d.,%]+) │", text)
        return {name: (padded, packed) for name, padded, packed in rows}

    printed, shown = table(process.stdout), table(blocks("text")[1])
    assert printed.keys() == shown.keys()
    for name in ("rows", "utilisation", "real tokens", "steps"):
        assert printed[name] == shown[name]
    for first, last in zip(printed["first loss"], printed["final loss (mean of 10)"], strict=True):
        assert float(last) < float(first) - 2
    padded, packed = (float(text.replace(",", "")) for text in printed["CPU seconds"])
    assert packed < padded  # with 4 times fewer rows; how much, a busy machine does not tell
    share = re.search(r"less processor time: (\d+)% of the ratio of rows", process.stdout)
    assert share
    rows_padded, rows_packed = (int(rows) for rows in printed["rows"])
    assert int(share[1]) == pytest.approx(100 * padded / packed * rows_packed / rows_padded, abs=2)
