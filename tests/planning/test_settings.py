# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect
import shlex
from argparse import ArgumentParser
from dataclasses import MISSING, fields
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing import plan_packs
from megatron_packing.commands import pack
from megatron_packing.planning import settings as settings_module
from megatron_packing.planning.settings import PlanSettings, flag_of
from megatron_packing.planning.strategies import STRATEGIES

NAMES = [field.name for field in fields(PlanSettings)]


def parser() -> ArgumentParser:
    made = ArgumentParser(allow_abbrev=False)
    pack.add_arguments(made)
    return made


def test_plan_packs_takes_settings_or_the_same_fields_by_name():
    lengths = np.random.default_rng(0).integers(1, 200, 500)
    fields_given = {"strategy": "greedy", "alignment": 2, "max_documents_per_pack": 4, "seed": 3}
    by_settings = plan_packs(lengths, PlanSettings(sequence_length=256, **fields_given))
    by_names = plan_packs(lengths, 256, **fields_given)
    assert by_settings.num_packs > 1
    for name in ("pack_offsets", "document_ids"):
        assert np.array_equal(getattr(by_settings, name), getattr(by_names, name))
    with pytest.raises(TypeError, match="stratgy"):
        plan_packs(lengths, 256, stratgy="greedy")
    with pytest.raises(TypeError, match="multiple values"):
        plan_packs(lengths, 256, sequence_length=128)
    with pytest.raises(TypeError, match="settings and seed are given"):
        plan_packs(lengths, PlanSettings(sequence_length=256), seed=1)


def test_pack_has_a_flag_with_the_same_default_for_every_field():
    flags = parser()._option_string_actions
    for field in fields(PlanSettings):
        action = flags[flag_of(field.name)]
        assert action.required == (field.default is MISSING)
        if not action.required:
            assert action.default == field.default


@pytest.mark.parametrize("prefix", ["", "packing-"])
def test_the_help_of_each_flag_is_the_text_below_its_field_and_the_default(prefix):
    made = ArgumentParser()
    PlanSettings.add_arguments(made, prefix=prefix)
    texts = {}
    for name in NAMES:
        texts[name] = made._option_string_actions[f"--{prefix}{name.replace('_', '-')}"].help
    end = "." if prefix else ""
    assert texts["sequence_length"].lower() == f"positions in a row{end}"
    assert texts["min_packs"].lower() == f"divide packs until there are this many (default: 0){end}"
    assert texts["max_documents_per_pack"].endswith(f"a pack (default: no limit){end}")
    for text in texts.values():
        assert text[0].isupper() == bool(prefix)
        assert text.endswith(".") == bool(prefix)
    for strategy in STRATEGIES:
        assert f"{strategy}: " in texts["strategy"]


def test_flags_are_there_without_help_where_python_has_no_sources(monkeypatch):
    def no_source(_):
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", no_source)
    settings_module._texts.cache_clear()
    try:
        assert parser().parse_args(["--sequence-length", "8", "--output", "x"]).alignment == 1
    finally:
        settings_module._texts.cache_clear()


def values_of(kind: object) -> st.SearchStrategy:
    """Values of a field of that type."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    number = st.integers(0, 2**64 - 1)
    return number if kind is int else st.none() | number


settings = st.builds(
    PlanSettings,
    **{name: values_of(kind) for name, kind in get_type_hints(PlanSettings).items()},
)


@given(settings, st.none() | st.tuples(st.integers(0, 99), st.integers(100, 999)))
def test_the_command_that_messages_print_makes_this_plan(plan, bounds):
    documents = None if bounds is None else range(*bounds)
    command = shlex.split(plan.command("data/a b,data/c:2", documents))
    assert command[:4] == ["megatron-packing", "pack", "data/a b", "data/c:2"]
    args = parser().parse_args(command[2:])
    assert PlanSettings.from_arguments(args) == plan
    assert args.prefixes == ["data/a b", "data/c:2"]
    assert args.documents == (None if bounds is None else f"{bounds[0]}:{bounds[1]}")
