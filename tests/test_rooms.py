# SPDX-License-Identifier: Apache-2.0
"""Which room of the package may import which: the contracts are in pyproject.toml."""

from __future__ import annotations

import importlinter.cli

from tests.conftest import ROOT


def test_rooms_import_only_what_stands_below_them(capsys):
    status = importlinter.cli.lint_imports(f"{ROOT / 'pyproject.toml'}", no_cache=True)
    assert status == importlinter.cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out
