# SPDX-License-Identifier: Apache-2.0
"""The example data that pages of the documentation start from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.commands import run_command

PREPARED = (
    "python examples/chitchat.py data",
    "megatron-packing tokenize data/conversations.jsonl --output-prefix data/chat "
    "--tokenizer data/tokenizer",
    "megatron-packing pack data/chat --sequence-length 4096 --overlong split --output data/packs",
)
"""The first commands of the README."""


@pytest.fixture(scope="session")
def example_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with examples/, data/conversations.jsonl, data/tokenizer, data/chat, data/packs."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", folder / "examples")
    for command in PREPARED:
        process = run_command(command, folder)
        assert process.returncode == 0, process.stderr
    return folder
