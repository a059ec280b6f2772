# SPDX-License-Identifier: Apache-2.0
"""Reads the fields of one record, and tracks which of them were read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megatron_packing.records.record import RecordError, is_empty, parse_json, shown, type_name
from megatron_packing.schemas.field_names import FieldNames


class RecordFields:
    """One record, while it is read."""

    def __init__(self, values: dict[str, Any], names: FieldNames) -> None:
        """Begin to read a record.

        Args:
            values: Its fields under their standard names, without nulls.
            names: Maps the names that its messages use.
        """
        self.names = names
        self._values = values
        self._unread = dict.fromkeys(self._values)
        self._notes: dict[str, None] = {}
        self.null_arguments: list[tuple[str, dict[str, Any]]] = []
        """Names of called functions and those of their arguments that hold a null."""

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def has_none_of(self, names: frozenset[str]) -> bool:
        """Whether the record lacks all of these fields."""
        return names.isdisjoint(self._values)

    def peek(self, name: str) -> Any:
        """A field's value, or None, without taking it for read."""
        return self._values.get(name)

    def get(self, name: str) -> Any:
        """A field's value, or None."""
        self._unread.pop(name, None)
        return self._values.get(name)

    def text(self, name: str) -> str:
        """A field that must be a text.

        Raises:
            RecordError: It is not there, or no text.
        """
        if name not in self._values:
            raise missing(name)
        value = self.get(name)
        if not isinstance(value, str):
            raise RecordError("wrong type", f"'{name}' is a {type_name(value)}, not a text")
        return value

    def list_of(self, name: str) -> list[Any]:
        """A field that must be a list, or the JSON text of one, and may not be empty.

        Raises:
            RecordError: It is not.
        """
        if name not in self._values:
            raise missing(name)
        value = from_json_text(self.get(name), f"'{name}'", "[")
        if not isinstance(value, list):
            raise RecordError("wrong type", f"'{name}' is a {type_name(value)}, not a list")
        if not value:
            raise RecordError("no messages", f"'{name}' is empty")
        return value

    def note(self, phrase: str, detail: str = "") -> None:
        """Count the record under a phrase; see ``EncodedBatch.notes``."""
        self._notes[f"{phrase}: {shown(detail)}" if detail else phrase] = None

    def notes(self) -> tuple[str, ...]:
        """What was noted, and which fields were not read."""
        for name in self._unread:
            if not is_empty(self._values[name]):
                self.note("record fields not read", name)
        return tuple(self._notes)


def missing(name: str) -> RecordError:
    """What is wrong with a record that lacks a field."""
    return RecordError(
        "field missing",
        f"it has no field '{name}'; if another field holds it, add --field NAME={name}",
    )


def from_json_text(value: Any, where: str, begins: str) -> Any:
    """A value that may have come as JSON text, as what it is.

    Args:
        value: Whatever the record holds.
        where: Its place, for messages.
        begins: The characters with which such JSON can begin; other texts are returned as they
            are.

    Raises:
        RecordError: It begins like JSON and is none.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(tuple(begins)):
        return value
    try:
        return parse_json(value.encode())
    except UnicodeEncodeError as error:
        raise RecordError("not JSON", f"{where} is not JSON (it has half a character)") from error
    except RecordError as error:
        reason = error.reason.removeprefix("it is ").removeprefix("its JSON ")
        raise RecordError(
            "not JSON", f"{where} is JSON text that cannot be read: {reason}"
        ) from error
