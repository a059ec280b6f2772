# SPDX-License-Identifier: Apache-2.0
"""The page on Megatron's flags names what is refused, and tests that train with what is exact."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("megatron.core")

from megatron_packing.megatron.flags import REFUSED, flag_of
from tests.conftest import ROOT
from tests.trainer import megatrons_flags, needs_trainer

PAGE = (ROOT / "docs" / "megatron-flags.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| Flags", "| ---"))
]


def flags_of(cell: str) -> list[str]:
    return re.findall(r"`(--[\w-]+)", cell)


def test_each_row_says_what_is_so_and_why():
    assert len(ROWS) > 40
    for flags, status, reason in ROWS:
        assert re.match("exact|tested|allowed|refused", status), flags
        assert reason


def test_each_flag_that_is_always_refused_is_named():
    refused = {flag for flags, status, _ in ROWS if "refused" in status for flag in flags_of(flags)}
    assert {flag_of(name) for name in REFUSED} <= refused


def test_what_is_exact_or_tested_stands_in_a_test_that_is_named():
    """Each flag, by its own name or as a field, and each value that the row gives."""
    for flags, status, reason in ROWS:
        if not status.startswith(("exact", "tested")):
            continue
        named = re.findall(r"`(tests/[\w/]+\.py)`", reason)
        assert named, flags
        text = "".join((ROOT / path).read_text() for path in named)
        for name in re.findall(r"`([^`]+)`", flags):
            forms = {re.escape(name), re.escape(name.lstrip("-").replace("-", "_"))}
            found = re.search(rf"(?<![\w-])({'|'.join(forms)})(?![\w-])", text)
            assert found or not name[-1].isalnum(), (name, named)


@needs_trainer
def test_each_flag_is_one_of_megatron_or_refused_in_other_releases():
    known = {flag for flags in megatrons_flags().values() for flag in flags}
    named = {flag for flags, *_ in ROWS for flag in flags_of(flags)}
    assert named - known <= {flag_of(name) for name in REFUSED}
