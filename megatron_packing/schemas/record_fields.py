# SPDX-License-Identifier: Apache-2.0
"""Reads the fields of one record, and tracks which of them were read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megatron_packing.records.record import RecordError, is_empty, parse_json, shown, wrong_type
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
        """Names of called functions, with their arguments if these contain a null."""

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def has_none_of(self, names: frozenset[str]) -> bool:
        """Whether the record has none of these fields."""
        return names.isdisjoint(self._values)

    def peek(self, name: str) -> Any:
        """Return a field's value, or None, without marking it as read."""
        return self._values.get(name)

    def get(self, name: str) -> Any:
        """Return a field's value, or None, and mark it as read."""
        self._unread.pop(name, None)
        return self._values.get(name)

    def text(self, name: str) -> str:
        """Return a field that must be a text.

        Raises:
            RecordError: The field is missing or is not a text.
        """
        if name not in self._values:
            raise missing(name)
        value = self.get(name)
        if not isinstance(value, str):
            raise wrong_type(f"'{name}'", value, "a text")
        return value

    def list_of(self, name: str) -> list[Any]:
        """Return a field that must be a list, or the JSON text of one, and not empty.

        Raises:
            RecordError: The field is missing, is not a list, or is empty.
        """
        if name not in self._values:
            raise missing(name)
        value = from_json_text(self.get(name), f"'{name}'", "[")
        if not isinstance(value, list):
            raise wrong_type(f"'{name}'", value, "a list")
        if not value:
            raise RecordError("no messages", f"'{name}' is empty")
        return value

    def note(self, phrase: str, detail: str = "") -> None:
        """Add a note; the run counts records by their notes."""
        self._notes[f"{phrase}: {shown(detail)}" if detail else phrase] = None

    def notes(self) -> tuple[str, ...]:
        """Return all notes, with one for each field that was not read."""
        for name in self._unread:
            if not is_empty(self._values[name]):
                self.note("record fields not read", name)
        return tuple(self._notes)


def missing(name: str) -> RecordError:
    """Return the error for a missing field."""
    return RecordError(
        "field missing",
        f"it has no field '{name}'; if another field holds it, add --field NAME={name}",
    )


def from_json_text(value: Any, where: str, begins: str) -> Any:
    """Return a value, parsed if it is JSON text.

    Args:
        value: Any value of a record.
        where: Names it in errors.
        begins: The characters that such JSON can begin with. Other texts are returned unchanged.

    Raises:
        RecordError: The text begins like JSON but is not valid.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(tuple(begins)):
        return value
    try:
        return parse_json(value.encode())
    except UnicodeEncodeError as error:
        raise RecordError(
            "not JSON", f"{where} is not JSON (it has half of a surrogate pair)"
        ) from error
    except RecordError as error:
        reason = error.reason.removeprefix("it is ").removeprefix("its JSON ")
        raise RecordError(
            "not JSON", f"{where} is JSON text that cannot be read: {reason}"
        ) from error
