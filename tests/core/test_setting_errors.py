# SPDX-License-Identifier: Apache-2.0
"""Errors about settings name them as the user did: as arguments, or as flags of the command."""

from __future__ import annotations

import pickle
import re
from dataclasses import fields

import numpy as np
import pytest

from megatron_packing import plan_packs
from megatron_packing.cli import main
from megatron_packing.errors import SettingError, doubled_braces
from megatron_packing.planning.settings import PlanSettings, flag_of

FIELDS = [field.name for field in fields(PlanSettings)]
WRONG = [
    ({"sequence_length": 0}, "{sequence_length} is 0; it must be between 1 and 67108864"),
    ({"alignment": 3}, "{alignment} is 3; it must be a divisor of {sequence_length}, which is 8"),
    ({"max_documents_per_pack": 0}, "{max_documents_per_pack} is 0; it must be at least 1"),
    ({"min_packs": -1}, "{min_packs} is -1; it must be between 0 and 2^36"),
    ({"packs_multiple_of": 0}, "{packs_multiple_of} is 0; it must be between 1 and 2^36"),
    ({"seed": -1}, "{seed} is -1; it must be between 0 and 2**64 - 1"),
    (
        {"strategy": "random", "overlong": "drop"},
        "{strategy} random cuts documents at the ends of rows; use {overlong} split or error",
    ),
    ({"min_packs": 2**36}, "; ask for fewer with {min_packs} and {packs_multiple_of}"),
]


def named(message: str, name_of) -> str:
    return re.sub(r"\{(\w+)\}", lambda field: name_of(field[1]), message)


BEYOND_64_BITS = ({"min_packs": 2**70}, f"{{min_packs}} is {2**70}, which does not fit in 64 bits")


@pytest.mark.parametrize(("settings", "message"), [*WRONG, BEYOND_64_BITS])
def test_python_is_told_the_argument(settings, message):
    with pytest.raises(ValueError, match=re.escape(named(message, str))):
        plan_packs([1, 2], **{"sequence_length": 8, **settings})


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_the_command_line_is_told_the_flag(settings, message, tmp_path, capsys):
    lengths = tmp_path / "{seed}.npy"
    np.save(lengths, np.array([1, 2]))
    flags = [
        f"{flag_of(name)}={value}" for name, value in {"sequence_length": 8, **settings}.items()
    ]
    command = ["pack", "--lengths", str(lengths), "--output", str(tmp_path / "packs"), *flags]
    assert main(command) == 1
    assert named(message, flag_of) in capsys.readouterr().err
    assert not (tmp_path / "packs").exists()


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "a longer --sequence-length, or choose with --overlong drop, truncate or split"),
        (["--overlong", "drop"], "would be dropped; choose a longer --sequence-length"),
    ],
)
def test_names_in_braces_in_paths_stay(options, advice, tmp_path, capsys):
    lengths = tmp_path / "{seed}{x}}.npy"
    np.save(lengths, np.array([9, 9]))
    command = ["pack", "--lengths", str(lengths), "--sequence-length", "8", *options]
    assert main([*command, "--output", str(tmp_path / "packs")]) == 1
    error = capsys.readouterr().err
    assert str(lengths) in error
    assert advice in error


def test_the_core_itself_says_what_to_do_with_a_long_document():
    with pytest.raises(SettingError) as caught:
        plan_packs([1, 9], 8)
    assert caught.value.naming(flag_of) == (
        "document 1 has 9 positions, but --sequence-length is 8; use a longer one, or --overlong "
        "drop, truncate or split"
    )


@pytest.mark.parametrize("name", ["{seed}", "a{b", "}}", "{{seed}}"])
def test_braces_that_the_user_gave_are_shown_as_given(name):
    for field in ("strategy", "overlong", "effort"):
        with pytest.raises(SettingError, match=re.escape(f"{field} is '{name}'; use ")):
            plan_packs([1], 8, **{field: name})
    error = SettingError(f"{{seed}}: {doubled_braces(name)}")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == f"seed: {name}"


def test_every_name_in_an_error_is_that_of_a_setting():
    for settings, message in WRONG:
        assert {*settings, *re.findall(r"\{(\w+)\}", message)} <= {*FIELDS}
