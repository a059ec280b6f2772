# SPDX-License-Identifier: Apache-2.0
"""One record as it was read: JSON text or a row of a table, and what may be wrong with it."""

from __future__ import annotations

import json
from typing import Any


class RecordError(ValueError):
    """A record that cannot be used.

    ``kind`` says in a few words what is wrong, the same for all records with that fault, so that
    they can be counted; the message is the reason, in half a sentence.
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
        RecordError: It is not JSON in UTF-8, gives a name twice in one object, or is nested or has
            numbers beyond what Python parses.
    """
    try:
        return json.loads(text.rstrip(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise RecordError(
            "not UTF-8", f"it is not UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    except json.JSONDecodeError as error:
        raise RecordError(
            "not JSON", f"it is not JSON ({error.msg} at column {error.colno})"
        ) from error
    except RecursionError as error:
        raise RecordError("nested too deeply", "its JSON is nested too deeply") from error
    except ValueError as error:  # an integer of over 4,300 digits
        raise RecordError("not JSON", f"its JSON cannot be read ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; one of two values of one name would be dropped otherwise."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordError("a name twice", f"it has {shown(twice)} twice in one object; keep one")
    return fields


def type_name(value: Any) -> str:
    """What JSON calls a value's type, for messages."""
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "text", dict: "object"}
    return names.get(type(value), type(value).__name__)


def shown(name: str) -> str:
    """A name from a record as messages write it: short, and all of it visible."""
    short = name if len(name) <= 60 else name[:60] + "..."
    return short if short.isprintable() else repr(short)[1:-1]


def is_empty(value: Any) -> bool:
    """Whether a value holds nothing, such as what fills the fields of other rows in a table."""
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, list):
        return all(map(is_empty, value))
    return value is None or value == ""
