# SPDX-License-Identifier: Apache-2.0
"""Everything that lists strategies reads the table of the core."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from megatron_packing import STRATEGIES, _core, plan_packs
from megatron_packing._strategy import Strategy
from megatron_packing.cli import make_parser
from megatron_packing.planning.strategies import BASELINE, STRATEGY_TABLE
from tests.conftest import ROOT

CUT = [row.name for row in STRATEGY_TABLE.values() if row.cuts_documents]
KEEP_WHOLE = [name for name in STRATEGIES if name not in CUT]


def test_type_checkers_know_the_names_of_the_table():
    assert get_args(Strategy) == STRATEGIES == tuple(row[0] for row in _core.strategies())


def test_the_names_are_those_that_plans_were_made_with_before():
    assert {"padding", "random", "greedy", "first_fit_shuffle", "first_fit_decreasing"} < {
        *STRATEGIES
    }
    assert CUT == ["random"]
    assert BASELINE == "padding"
    assert [row.name for row in STRATEGY_TABLE.values() if not row.by_length] == [
        "random",
        "first_fit_shuffle",
    ]


def test_every_strategy_has_a_file_of_its_name():
    for name in STRATEGIES:
        assert (ROOT / "csrc" / "strategies" / f"{name}.cpp").exists()


def test_an_unknown_strategy_is_told_all_names():
    *others, last = STRATEGIES
    with pytest.raises(ValueError, match=f"'best'; use {', '.join(others)} or {last}$"):
        plan_packs([1], 8, strategy="best")


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_overlong_documents_are_left_out_only_by_strategies_that_keep_documents_whole(overlong):
    lengths = np.array([3, 20])
    for name in KEEP_WHOLE:
        assert plan_packs(lengths, 8, strategy=name, overlong=overlong).num_positions_lost > 0
    for name in CUT:
        with pytest.raises(ValueError, match=f"strategy {name} cuts documents"):
            plan_packs(lengths, 8, strategy=name, overlong=overlong)


def test_the_help_of_pack_says_what_each_strategy_does():
    _, verbs = make_parser()
    help_text = " ".join(verbs["pack"].format_help().split())
    for row in STRATEGY_TABLE.values():
        assert f"{row.name}: {row.summary}" in help_text


def test_settings_that_the_core_does_not_know_are_refused():
    settings = {
        "strategy": "padding",
        "sequence_length": 8,
        "effort": "default",
        "alignment": 1,
        "max_documents_per_pack": 1,
        "overlong": "error",
        "min_packs": 0,
        "packs_multiple_of": 1,
        "seed": 0,
    }
    lengths = np.array([3])
    assert len(_core.plan_packs(lengths, None, **settings)["document_ids"]) == 1
    with pytest.raises(TypeError, match="unknown"):
        _core.plan_packs(lengths, None, **settings, other=1)
    del settings["alignment"]
    with pytest.raises(TypeError, match="alignment is missing"):
        _core.plan_packs(lengths, None, **settings)
