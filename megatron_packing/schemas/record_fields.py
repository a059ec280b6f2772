# SPDX-License-Identifier: Apache-2.0
"""The fields of a record under their standard names, and which of them were read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError, is_empty, parse_json, shown, type_name
from megatron_packing.schemas.training_marks import MARKS

IGNORE = "ignore"
"""The standard name of a field that is not read."""
RECORD_FIELDS = (
    *("messages", "conversations", "instruction", "input", "output", "history", "prompt"),
    *("completion", "turns", "text", "system", "tools", "functions", "chat_template_kwargs"),
    *("reasoning_content", *MARKS),
)
MESSAGE_FIELDS = (
    *("role", "content", "from", "value", "name", "tool_calls", "tool_call_id"),
    *("reasoning_content", *MARKS),
)
ROLES = ("system", "developer", "user", "assistant", "tool", "function_call")
"""What a role can mean. ``function_call`` is an assistant's tool calls, as JSON text."""


@dataclass(frozen=True, slots=True)
class RecordNames:
    """What the fields and roles of records mean where their names are not standard."""

    fields: Mapping[str, str] = field(default_factory=dict)
    """A field's name and the standard one, of ``RECORD_FIELDS`` or ``MESSAGE_FIELDS``, or
    ``ignore``."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """A role's name and its meaning, of ``ROLES``."""
    matched: set[str] = field(default_factory=set, compare=False)
    """The mappings that matched a field or a role so far, as on the command line."""

    def __post_init__(self) -> None:
        """Check that the standard names exist.

        Raises:
            InputError: One does not, or a name is no text.
        """
        standard = tuple(dict.fromkeys([*RECORD_FIELDS, *MESSAGE_FIELDS, IGNORE]))
        for option, given, known in (("field", self.fields, standard), ("role", self.roles, ROLES)):
            for name, meaning in given.items():
                try:
                    name.encode()
                except UnicodeEncodeError as error:
                    raise InputError(
                        f"--{option} {name!r}={meaning} names a {option} that is not UTF-8"
                    ) from error
                if meaning not in known:
                    raise InputError(
                        f"--{option} {name}={meaning} names no standard {option}; "
                        f"those are {', '.join(known)}"
                    )

    def of_record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record's fields under their standard names, without nulls.

        Raises:
            RecordError: Two of them have one standard name.
        """
        return self._renamed(record, RECORD_FIELDS, "it")

    def of_message(self, message: Mapping[str, Any], where: str) -> dict[str, Any]:
        """As ``of_record``, of a message."""
        return self._renamed(message, MESSAGE_FIELDS, where)

    def role(self, name: str) -> str:
        """What a role means; its own name where it is not mapped."""
        meaning = self.roles.get(name)
        if meaning is None:
            return name
        self.matched.add(f"--role {name}={meaning}")
        return meaning

    def mappings(self) -> list[str]:
        """All mappings, as on the command line."""
        fields = [f"--field {name}={meaning}" for name, meaning in self.fields.items()]
        return fields + [f"--role {name}={meaning}" for name, meaning in self.roles.items()]

    def _renamed(
        self, values: Mapping[str, Any], standard: tuple[str, ...], where: str
    ) -> dict[str, Any]:
        if not self.fields:
            return {name: value for name, value in values.items() if value is not None}
        renamed: dict[str, Any] = {}
        for name, value in values.items():
            meaning = self.fields.get(name, name)
            if name in self.fields and (meaning == IGNORE or meaning in standard):
                self.matched.add(f"--field {name}={meaning}")
            if value is None or meaning == IGNORE:
                continue
            if meaning not in standard:  # it is a name of the other level
                meaning = name
            if meaning in renamed:
                raise RecordError(
                    "field given twice",
                    f"{where} has two fields that --field reads as '{meaning}', one of them "
                    f"'{shown(name)}'",
                )
            renamed[meaning] = value
        return renamed


class RecordFields:
    """One record, while it is read."""

    def __init__(self, record: Mapping[str, Any], names: RecordNames) -> None:
        """Rename the fields.

        Raises:
            RecordError: Two of them have one standard name.
        """
        self.names = names
        self._values = names.of_record(record)
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
