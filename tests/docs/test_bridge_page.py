# SPDX-License-Identifier: Apache-2.0
"""The recipe on the page about Megatron-Bridge runs, and prints what the page shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.bridge.conftest import BRIDGE
from tests.conftest import ROOT
from tests.docs.pages import blocks
from tests.limits import TIME_LIMIT


@pytest.mark.skipif(BRIDGE < (0, 5), reason="the recipe has four pipeline stages")
@pytest.mark.slow
def test_the_recipe_prints_what_the_page_shows(example_data, tmp_path):
    """On the example's packs, up to where Bridge begins to train."""
    texts = {block.kind: block.text for block in blocks("bridge.md") if block.number == 0}
    shutil.copytree(example_data, tmp_path, dirs_exist_ok=True)
    program = tmp_path / "recipe.py"
    program.write_text(texts["python"], encoding="utf-8")
    (tmp_path / "checkpoints" / "llama3_70b").mkdir(parents=True)  # which import_ckpt makes
    process = subprocess.run(
        [sys.executable, ROOT / "tests" / "bridge" / "run_example.py", program],
        cwd=tmp_path,
        env={**os.environ, "WORLD_SIZE": "32"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert texts["text"] in process.stdout
