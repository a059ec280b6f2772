# SPDX-License-Identifier: Apache-2.0
"""Which room of the package may import which: the contracts are in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT
from tests.limits import TIME_LIMIT

# In a process of its own: import-linter's command disables all loggers that exist already.
LINT = "import sys, importlinter.cli as c; sys.exit(c.lint_imports(sys.argv[1], no_cache=True))"


def test_rooms_import_only_what_stands_below_them():
    command = [sys.executable, "-c", LINT, str(ROOT / "pyproject.toml")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT)
    assert result.returncode == 0, result.stdout + result.stderr
