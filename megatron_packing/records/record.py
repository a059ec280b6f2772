# SPDX-License-Identifier: Apache-2.0
"""Parses one record, and defines the error for records that cannot be used."""

from __future__ import annotations

import json
from typing import Any


class RecordError(ValueError):
    """A record that cannot be used.

    ``kind`` names the fault in a few words, the same for all records with it, so that they can be
    counted. ``reason`` describes it and follows a phrase such as ``line 3 is refused:``.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def parse_json(text: bytes) -> Any:
    """Parse the JSON text of one record.

    Raises:
        RecordError: The text is not JSON in UTF-8, an object has two fields of the same name, or
            Python's limits on nesting or number size are exceeded.
    """
    try:
        return json.loads(text.rstrip(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise RecordError(
            "not UTF-8", f"it is not UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    except json.JSONDecodeError as error:
        raise RecordError(
            "not JSON", f"it is not JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
        ) from error
    except RecursionError as error:
        raise RecordError("nested too deeply", "its JSON is nested too deeply") from error
    except ValueError as error:  # an integer of over 4,300 digits
        raise RecordError("not JSON", f"its JSON cannot be read ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with two fields of the same name, one of which would be dropped."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordError("a name twice", f"it has {shown(twice)} twice in one object; keep one")
    return fields


def type_name(value: Any) -> str:
    """Return the JSON name of a value's type with its article, for messages."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    names = {bool: "boolean", int: "number", float: "number", str: "text"}
    return f"a {names.get(type(value), type(value).__name__)}"


def wrong_type(where: str, value: Any, expected: str) -> RecordError:
    """Return the error for a value of the wrong type.

    Args:
        where: Names the value, such as ``'history'``.
        value: What the record has there.
        expected: The expected type with its article, such as ``a list``.
    """
    return RecordError("wrong type", f"{where} is {type_name(value)}, not {expected}")


def shown(name: str) -> str:
    """Return a name from a record for messages: shortened, with invisible characters escaped."""
    short = name if len(name) <= 60 else name[:60] + "..."
    return short if short.isprintable() else repr(short)[1:-1]


def is_empty(value: Any) -> bool:
    """Whether a value is empty, such as the filler for fields that a table's other rows have."""
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, list):
        return all(map(is_empty, value))
    return value is None or value == ""
