# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect
import shlex
from argparse import ArgumentParser
from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from megatron_packing import plan_packs
from megatron_packing.commands import pack
from megatron_packing.planning.plan import EFFORTS, OVERLONG, STRATEGIES
from megatron_packing.planning.settings import PlanSettings, flag_of

NAMES = [field.name for field in fields(PlanSettings)]


def parser() -> ArgumentParser:
    made = ArgumentParser(allow_abbrev=False)
    pack.add_arguments(made)
    return made


def test_plan_packs_takes_every_field_by_its_name_and_default():
    parameters = inspect.signature(plan_packs).parameters
    assert set(NAMES) == parameters.keys() - {"lengths", "progress"}
    for field in fields(PlanSettings):
        if field.name not in ("strategy", "sequence_length"):
            assert parameters[field.name].default == field.default


def test_pack_has_a_flag_with_the_same_default_for_every_field():
    flags = parser()._option_string_actions
    for field in fields(PlanSettings):
        action = flags[flag_of(field.name)]
        if field.name not in ("strategy", "sequence_length"):
            assert action.default == field.default


settings = st.builds(
    PlanSettings,
    strategy=st.sampled_from(STRATEGIES),
    sequence_length=st.integers(1, 2**26),
    effort=st.sampled_from(EFFORTS),
    alignment=st.integers(1, 64),
    max_documents_per_pack=st.none() | st.integers(1, 1000),
    overlong=st.sampled_from(OVERLONG),
    min_packs=st.integers(0, 10**6),
    packs_multiple_of=st.integers(1, 10**6),
    seed=st.integers(0, 2**64 - 1),
)


@given(settings, st.none() | st.tuples(st.integers(0, 99), st.integers(100, 999)))
def test_the_command_that_messages_print_makes_this_plan(plan, bounds):
    documents = None if bounds is None else range(*bounds)
    command = shlex.split(plan.command("data/a b,data/c:2", documents))
    assert command[:4] == ["megatron-packing", "pack", "data/a b", "data/c:2"]
    args = parser().parse_args(command[2:])
    assert PlanSettings(**{name: getattr(args, name) for name in NAMES}) == plan
    assert args.prefixes == ["data/a b", "data/c:2"]
    assert args.documents == (None if bounds is None else f"{bounds[0]}:{bounds[1]}")
