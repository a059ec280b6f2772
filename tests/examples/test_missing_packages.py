# SPDX-License-Identifier: Apache-2.0
"""Examples end with one sentence where a package is missing that this project never installs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import EXAMPLES, ROOT
from tests.limits import TIME_LIMIT

# Hides packages, as a Python that lacks them would look; then runs the script as it is started.
HIDE = """
import importlib.abc, runpy, sys
hidden, *sys.argv = sys.argv[1:]
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if f"{name}.".startswith(tuple(f"{each}." for each in hidden.split(","))):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("script", "hidden", "package"),
    [
        ("pretrain_packed_gpt.py", "megatron,torch", "torch"),
        ("pretrain_packed_gpt.py", "megatron", "megatron-core"),
        ("cpu_trainer.py", "megatron,torch", "torch"),
        ("cpu_trainer.py", "megatron", "megatron-core"),
        ("llama3_70b_sft/bridge_recipe.py", "megatron", "megatron-core"),
        ("llama3_70b_sft/bridge_recipe.py", "megatron.bridge", "megatron-bridge"),
    ],
)
def test_scripts_end_with_one_sentence_without_a_package(script, hidden, package):
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HIDE, hidden, EXAMPLES / script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.startswith(f"error: this needs {package} (module ")
    assert process.stderr.count("\n") == 1
