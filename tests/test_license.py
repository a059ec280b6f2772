# SPDX-License-Identifier: Apache-2.0
"""Every source file names its license, and the license its owner."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.limits import TIME_LIMIT


def test_every_source_file_names_its_license():
    if not (ROOT / ".git").exists():
        pytest.skip("git lists the files")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "add_spdx.py", "--check"],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_license_names_its_owner():
    owner = "Copyright 2026 the megatron-packing authors"
    assert owner in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert owner in (ROOT / "NOTICE").read_text(encoding="utf-8")
