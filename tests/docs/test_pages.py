# SPDX-License-Identifier: Apache-2.0
"""The pages of the documentation say nothing that was not run.

- ``console`` blocks of a page run in order, in one folder that holds the example data; they print
  what the page shows.
- ``python`` blocks run there too, between them, unless ``RUN_ELSEWHERE`` names another test.
- ``sh`` blocks have placeholders or need GPUs: their flags must be known to the parsers.
- A block with a title is a file of that name, which the commands after it may read.
- ``json`` and ``jsonl`` blocks must be JSON. ``text``, ``diff`` and ``toml`` blocks are only shown.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_packing.cli import make_parser
from megatron_packing.planning.strategies import STRATEGY_TABLE
from tests.conftest import ROOT
from tests.docs.commands import run_command, without_seconds
from tests.docs.pages import DOCS, blocks
from tests.limits import TIME_LIMIT
from tests.trainer import HAS_TRAINER, megatrons_flags, needs_trainer

PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("**/*.md"))
KINDS = {"console", "python", "sh", "json", "jsonl", "text", "diff", "toml"}
RUN_ELSEWHERE = {
    ("bridge.md", 0): "tests/docs/test_bridge_page.py",
    ("bridge.md", 1): "tests/bridge/test_finetune.py",
    ("pretrain-gpt.md", 0): "tests/docs/test_pretrain_gpt_page.py",
    ("pretrain-gpt.md", 1): "tests/docs/test_pretrain_gpt_page.py",
}
"""``python`` blocks, by page and number among the page's ``python`` blocks, and what runs them."""


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_known_kind(page):
    assert {block.kind for block in blocks(page)} <= KINDS


def test_the_table_of_strategies_is_that_of_the_core():
    page = (DOCS / "plan.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert rows == {name: row.summary for name, row in STRATEGY_TABLE.items()}


@pytest.mark.parametrize("page", PAGES)
def test_json_is_json(page):
    for block in blocks(page):
        if block.kind == "json":
            json.loads(block.text)
        elif block.kind == "jsonl":
            for line in block.text.splitlines():
                json.loads(line)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if {"console", "python"} & {b.kind for b in blocks(page)}]
)
@pytest.mark.slow
def test_commands_print_what_the_page_shows(page, example_data, tmp_path):
    if page == "analysis.md":
        pytest.importorskip("matplotlib")  # the newest lane has it
    copy_what_the_page_needs(page, example_data, tmp_path)
    for block in blocks(page):
        if block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.kind == "console":
            for command, expected in re.findall(
                r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE
            ):
                process = run_command(command, tmp_path)
                assert process.returncode == 0, f"{command}\n{process.stderr}"
                assert without_seconds(process.stdout) == without_seconds(expected), command
        elif block.kind == "python" and (page, block.number) not in RUN_ELSEWHERE:
            process = subprocess.run(
                [sys.executable, "-c", block.text],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT,
                check=False,
            )
            assert process.returncode == 0, f"{block.text}\n{process.stderr}"


def copy_what_the_page_needs(page: str, example_data: Path, folder: Path) -> None:
    """All example data, or only the scripts that make them where the page does this itself."""
    makes_data = any("examples/chitchat.py data" in block.text for block in blocks(page))
    ignore = shutil.ignore_patterns("data") if makes_data else None
    shutil.copytree(example_data, folder, dirs_exist_ok=True, ignore=ignore)


def shell_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "sh":
                for line in block.text.replace("\\\n", " ").splitlines():
                    if line.strip() and not line.startswith("#"):
                        yield page, line


@pytest.mark.parametrize(("page", "line"), list(shell_commands()))
def test_flags_of_commands_that_are_only_shown_exist(page, line):
    words = shlex.split(line, comments=True)
    names = [Path(word).name for word in words]
    if "megatron-packing" in words:
        parser, _ = make_parser()
        parser.parse_args(words[words.index("megatron-packing") + 1 :])
    elif "pretrain_packed_gpt.py" in names and HAS_TRAINER:
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= pretrain_flags() | TORCHRUN_FLAGS, page
    elif "make" in words:
        subprocess.run(
            [*words, "--dry-run"],
            cwd=ROOT,
            check=True,
            timeout=TIME_LIMIT,
            stdout=subprocess.DEVNULL,
        )


TORCHRUN_FLAGS = {
    "--standalone",
    "--nnodes",
    "--nproc-per-node",
    "--node-rank",
    "--master-addr",
    "--master-port",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--rdzv-id",
    "--max-restarts",
}


def pretrain_flags() -> set[str]:
    """All flags of Megatron's parser, and those of packing."""
    from megatron_packing.megatron.arguments import add_packing_arguments

    packing = add_packing_arguments(ArgumentParser())._option_string_actions
    return {*packing, *(flag for flags in megatrons_flags().values() for flag in flags)}


@pytest.mark.slow
@needs_trainer
def test_the_tutorial_ends_with_training_steps(example_data, tmp_path):
    copy_what_the_page_needs("tutorial.md", example_data, tmp_path)
    for block in blocks("tutorial.md"):
        if block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.kind == "console":
            for command in re.findall(r"^\$ (.*)$", block.text, re.MULTILINE):
                assert run_command(command, tmp_path).returncode == 0
    process = run_command("bash train.sh", tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    assert len(re.findall(r"iteration +\d/ +4 .* lm loss: ", process.stdout)) == 4
