# SPDX-License-Identifier: Apache-2.0
"""The picture of padded and packed rows is that of the planner."""

from __future__ import annotations

import runpy

import numpy as np
import pytest

from megatron_packing import Corpus
from tests.conftest import ROOT

DRAW_ROWS = runpy.run_path(str(ROOT / "tools" / "draw_rows.py"))


def test_it_is_what_the_script_draws():
    assert (ROOT / "docs" / "rows.svg").read_text(encoding="utf-8") == DRAW_ROWS["draw"]()


@pytest.mark.slow
def test_its_lengths_are_those_of_the_first_conversations(example_data):
    positions = np.asarray(Corpus(example_data / "data" / "chat").num_tokens) - 1
    fitting = positions[positions <= DRAW_ROWS["ROW"]]
    assert DRAW_ROWS["LENGTHS"].tolist() == fitting[:24].tolist()
