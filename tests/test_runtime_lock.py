# SPDX-License-Identifier: Apache-2.0
"""requirements/runtime.txt: what an install with hashes takes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.limits import TIME_LIMIT

LOCK = ROOT / "requirements" / "runtime.txt"
TEXT = re.sub(r"^#.*\n", "", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
ENTRIES = re.split(r"\n(?=\S)", TEXT)
NAMES = {entry.partition("==")[0] for entry in ENTRIES}


def test_every_package_is_pinned_and_hashed():
    for entry in ENTRIES:
        assert re.match(r"[\w.-]+==\S+", entry)
        assert "--hash=sha256:" in entry


def test_it_has_what_is_needed_and_no_torch_or_megatron():
    assert {"numpy", "rich", "pyarrow", "jinja2", "transformers", "zstandard"} <= NAMES
    assert not [name for name in NAMES if re.match(r"torch|triton|nvidia|megatron", name)]


def test_from_python_3_11_on_its_versions_are_those_of_the_newest_lane():
    lane = ROOT / "requirements" / "python3.12.txt"
    tested = dict(line.split("==") for line in lane.read_text().splitlines() if "==" in line)
    for entry in ENTRIES:
        found = re.match(r"([\w.-]+)==(\S+)(?: ; (.*?))? \\", entry)
        assert found
        if found[1] in tested and "< '3.11'" not in (found[3] or ""):
            assert found[2] == tested[found[1]], found[1]


@pytest.mark.slow
def test_pip_takes_it_for_both_processors(tmp_path):
    """Wheels alone, so that nothing is built, each with the hash that the file gives."""
    for machine in ("x86_64", "aarch64"):
        platforms = [f"manylinux{name}_{machine}" for name in ("_2_28", "_2_27", "2014")]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
            + ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(LOCK)]
            + ["--target", str(tmp_path), "--python-version", "3.12"]
            + [argument for name in platforms for argument in ("--platform", name)],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
