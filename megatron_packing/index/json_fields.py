# SPDX-License-Identifier: Apache-2.0
"""Reads the fields of a manifest into dataclasses: each is there, known, and of its type."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from megatron_packing.errors import InputError

ADVICE = "copy or make the pack index again"

_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}

Fields = TypeVar("Fields")


def read_fields(
    file: Path, kind: type[Fields], name: str, found: object, required: Collection[str] = ()
) -> Fields:
    """Make a dataclass of a part of the manifest.

    Args:
        file: The manifest, for messages.
        kind: A dataclass whose fields are integers, numbers, texts, choices of texts, tuples of
            them, or None.
        name: Of the part, for messages.
        found: What the manifest has.
        required: Fields that must be there, beside those without a default.

    Raises:
        InputError: A field is missing, unknown or of another type, or a number is no number of 64
            bits.
    """
    if not isinstance(found, dict):
        raise InputError(f"{file} lacks a field: {name} is {shortened(found)}, no object; {ADVICE}")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(found.keys() - fields.keys())
    if unknown:
        raise InputError(
            f"{file} has {shortened(unknown[0])} in {name}, which this release does not know; use "
            f"the release that made it, or make the pack index again"
        )
    values = {}
    for field in fields.values():
        if field.name in found:
            where = f"{name}.{field.name}"
            values[field.name] = _value(file, where, hints[field.name], found[field.name])
        elif field.default is dataclasses.MISSING or field.name in required:
            raise InputError(f"{file} lacks a field: {name}.{field.name}; {ADVICE}")
    return kind(**values)


def _value(file: Path, where: str, kind: Any, value: object) -> Any:
    """A value of JSON as a value of a field's type."""
    if get_origin(kind) is types.UnionType:  # something or None
        if value is None:
            return None
        kind = next(choice for choice in get_args(kind) if choice is not types.NoneType)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{file} has {shortened(value)} for {where}, not a list; {ADVICE}")
        return tuple(_value(file, where, get_args(kind)[0], item) for item in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(
                f"{file} has {shortened(value)} for {where}; this release knows "
                f"{', '.join(get_args(kind))}"
            )
        return value
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:  # True is an int, but no number
        raise InputError(f"{file} has {shortened(value)} for {where}, not {_NAMES[kind]}; {ADVICE}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{file} has {value} for {where}, not a number; {ADVICE}")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise InputError(f"{file} has {shortened(value)} for {where}, over 64 bits; {ADVICE}")
    return value


def shortened(value: object) -> str:
    """A value of JSON for a message."""
    return f"{value!r:.60}"
