# SPDX-License-Identifier: Apache-2.0
"""Linters run in the same versions before a commit, by hand and in CI."""

from __future__ import annotations

import re

import yaml

from tests.conftest import ROOT

CONFIGURATION = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements" / "python3.12.txt").read_text(encoding="utf-8")
LOCKED = {name.lower(): version for name, version in re.findall(r"^(\S+)==(\S+)$", LOCK, re.M)}
HOOKS = {hook["id"]: hook for repository in CONFIGURATION["repos"] for hook in repository["hooks"]}


def test_every_linter_runs_before_a_commit():
    assert set(HOOKS) == {"ruff-check", "ruff-format", "mypy", "clang-format"}


def test_hooks_have_the_versions_of_the_lock():
    pinned = [
        requirement.split("==")
        for hook in HOOKS.values()
        for requirement in hook.get("additional_dependencies", ())
    ]
    assert {name for name, _ in pinned} == {"ruff", "clang-format"}
    for name, version in pinned:
        assert version == LOCKED[name], f"{name} of .pre-commit-config.yaml"
    assert HOOKS["mypy"]["entry"].startswith(".venv-3.12/")  # made from the lock
