# SPDX-License-Identifier: Apache-2.0
"""Links lead somewhere. ``make docs`` checks those among the pages of the documentation."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.conftest import ROOT

LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
).stdout.split()
FILES = sorted(LISTED) or sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("*.md"))
STABLE = re.compile(
    r"https://(arxiv\.org/abs/\d{4}\.\d{5}|keepachangelog\.com/en/1\.1\.0/"
    r"|semver\.org/spec/v2\.0\.0\.html|github\.com/NVIDIA-NeMo/Megatron-Bridge)"
)
"""Addresses outside that do not move: this suite asks no network."""


@pytest.mark.parametrize("name", FILES)
def test_links_lead_to_files_or_to_addresses_that_do_not_move(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if link.startswith("http"):
            assert STABLE.fullmatch(link)
        elif link != "flags.md":  # made as the documentation is built
            assert ((ROOT / name).parent / link).exists(), link
