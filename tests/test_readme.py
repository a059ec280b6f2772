# SPDX-License-Identifier: Apache-2.0
"""The README says nothing that was not run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_packing.cli import main
from tests.bridge.conftest import BRIDGE
from tests.conftest import ROOT, chat_like_lengths, write_corpus
from tests.trainer import PRETRAIN_PACKED, needs_trainer, train

README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def without_seconds(text: str) -> list[str]:
    """Lines without what changes from run to run: times, and spaces at the end."""
    lines = (re.sub(r" in \d+\.\d\d s$", "", line.rstrip()) for line in text.splitlines())
    return [line for line in lines if not line.startswith("plan seconds ")]


def test_every_block_is_known():
    """A block of another kind would be run by no test."""
    languages = " ".join(name or "none" for name, _ in BLOCKS)
    # tests/test_install.py runs the first of sh. The first two of python are on docs/bridge.md too,
    # where tests/docs/test_bridge_page.py and tests/bridge/test_finetune.py run them.
    assert languages == "text none none none none console sh sh python text console python python"


def test_the_offline_commands_print_what_the_readme_shows(tmp_path):
    pytest.importorskip("transformers")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    folder = Path(sys.executable).parent
    environment = dict(os.environ, PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
    sessions = "".join(blocks("console"))
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", sessions, re.MULTILINE)
    assert len(steps) == 9
    for command, expected in steps:
        process = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
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
        timeout=240,
        check=True,
    ).stdout
    assert without_seconds(printed) == without_seconds(blocks("text")[0])


def test_the_python_example_runs():
    program = blocks("python")[2]
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    num_packs, lower_bound, utilisation, *_ = process.stdout.split()
    assert (int(num_packs), int(lower_bound), float(utilisation)) == (3, 3, 2300 / 3072)


@needs_trainer
def test_the_flags_train(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(200, longest=300))
    command, _ = blocks("sh")  # the other is run by tests/test_install.py
    script, _, flags = command.replace("\\\n", " ").partition("$MODEL_AND_OPTIMIZER")
    assert script.split()[0] == "torchrun"
    assert ROOT / script.split()[-1] == PRETRAIN_PACKED
    flags = flags.replace("data/chat", str(corpus.prefix))
    run = train(f"{flags} --train-iters 2 --eval-iters 1", ranks=2)
    assert len(run.steps) == 2
    assert len(run.evaluations) == 1
    assert "validation loss at iteration 2" in run.output


def test_the_make_commands_are_the_makefiles():
    commands = [block.strip() for block in blocks("")]
    assert commands[0] == "make demo"
    assert commands[2] == "make test"
    named = [command for command in commands if command.startswith("make ")]
    for command in [*named, "make test-all", "make test-3.11", "make lint"]:
        assert command in README
        subprocess.run(
            [*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, timeout=60, check=True
        )


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_trainer
def test_make_demo_prints_the_table_of_the_readme(tmp_path):
    """Processor times differ; rows, tokens and steps do not, losses fall, and packing pays."""
    process = subprocess.run(
        ["make", "demo", f"DEMO={tmp_path / 'demo'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]

    def table(text: str) -> dict[str, tuple[str, str]]:
        rows = re.findall(r"│ (.*?) +│ +([\d.,%]+) │ +([\d.,%]+) │", text)
        return {name: (padded, packed) for name, padded, packed in rows}

    printed, shown = table(process.stdout), table(blocks("")[1])
    assert printed.keys() == shown.keys()
    for name in ("rows", "utilisation", "real tokens", "steps"):
        assert printed[name] == shown[name]
    for first, last in zip(printed["first loss"], printed["final loss (mean of 10)"], strict=True):
        assert float(last) < float(first) - 2
    share = re.search(r"less processor time: (\d+)% of the ratio of rows", process.stdout)
    assert share
    assert int(share[1]) >= 80
