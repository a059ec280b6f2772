# SPDX-License-Identifier: Apache-2.0
"""The table of docs/check-model.md is what its script makes."""

from __future__ import annotations

import importlib.util
import re

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import transformers

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "check-model.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^(\| .* \(`(?:\w+)`\)) (\|.*)$", PAGE, re.MULTILINE))


@pytest.fixture(scope="module")
def script():
    path = ROOT / "tools" / "make_model_table.py"
    spec = importlib.util.spec_from_file_location("make_model_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_the_families_of_the_script(script):
    assert list(ROWS) == [f"| {title} (`{name}`)" for title, name, _ in script.FAMILIES]


def test_the_page_counts_the_families_that_leak():
    cells = [[cell.strip() for cell in row.split("|")[1:7]] for row in ROWS.values()]
    ran = [row for row in cells if any(row)]
    leaking = [row for row in ran if "**leaks**" in row]
    in_all = [row for row in leaking if "apart" not in row]
    assert (
        f"Of {len(ran)} families that run, {len(leaking)} leak in some combination, and "
        f"{len(in_all)} in every one"
    ) in PAGE


@pytest.mark.parametrize("model_type", ["gpt_oss", "bamba"])
def test_a_row_is_what_the_script_makes(script, model_type):
    if f"transformers {transformers.__version__}," not in PAGE:
        pytest.skip("another release of transformers than the page's")
    (family,) = (one for one in script.FAMILIES if one[1] == model_type)
    assert script.row(*family) in PAGE.splitlines()
