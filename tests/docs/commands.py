# SPDX-License-Identifier: Apache-2.0
"""Runs commands as a reader of the documentation types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.limits import TIME_LIMIT


def run_command(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, with this environment's programs first."""
    programs = Path(sys.executable).parent
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )


def without_seconds(text: str) -> list[str]:
    """Lines without what changes from run to run: times, and spaces at the end."""
    lines = (re.sub(r" in \d+\.\d\d s$", "", line.rstrip()) for line in text.splitlines())
    return [line for line in lines if not line.startswith("plan seconds ")]
