# SPDX-License-Identifier: Apache-2.0
"""Reads a record of any schema into a conversation (a list of messages) or into a plain text.

The schema is given by name or is found by the record's fields that are not null; see ``table``.
Beside its messages a record may have ``system``, ``tools`` or ``functions``, and
``chat_template_kwargs``. Lists and objects may be JSON text, as in tables. Fields that nothing
reads, and unknown fields of messages, are counted and reported. A record that would make a wrong
document is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from megatron_packing.records.record import RecordError, is_empty, type_name, wrong_type
from megatron_packing.schemas.message_content import read_content
from megatron_packing.schemas.messages import Message, ReadMessages
from megatron_packing.schemas.record_fields import RecordFields, from_json_text
from megatron_packing.schemas.record_names import RecordNames
from megatron_packing.schemas.refused_records import (
    check_can_be_trained,
    check_no_preference,
    unknown_schema,
)
from megatron_packing.schemas.schema import Schema
from megatron_packing.schemas.table import SCHEMAS
from megatron_packing.schemas.tool_fields import read_tools, settle_null_arguments

__all__ = ["Conversation", "Message", "PlainText", "find_schema", "read_record", "read_with_schema"]

_SYSTEM = ("system", "system_prompt", "system_message")
_ARGUMENTS = {"enable_thinking": bool, "thinking": bool, "reasoning_effort": str}
"""Fields of a record that set variables of the template if they have this type."""
_BESIDE_TURNS = frozenset([*_SYSTEM, "tools", "functions", "chat_template_kwargs", *_ARGUMENTS])
_NOT_ARGUMENTS = ("messages", "tools", "documents", "add_generation_prompt")
_STANDARD = RecordNames()


@dataclass(frozen=True, slots=True)
class Conversation:
    """A record with turns. A message's content is a text, or null beside tool calls."""

    messages: list[Message]
    trained: tuple[bool, ...]
    """For each message, whether the record allows training on it."""
    tools: list[Any] | None = None
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """Variables that the record sets for the template, such as ``enable_thinking``."""
    notes: tuple[str, ...] = ()
    """What is reported about the record. The run counts records by their notes."""


@dataclass(frozen=True, slots=True)
class PlainText:
    """One record without turns."""

    text: str
    notes: tuple[str, ...] = ()
    """As in ``Conversation``."""


def find_schema(record: Any, names: RecordNames = _STANDARD) -> str:
    """Return the name of a record's schema.

    Args:
        record: The parsed JSON, or the row of a table.
        names: The standard names of its fields.

    Raises:
        RecordError: The record is not an object, matches no schema, or is only a part of a
            conversation.
    """
    return _schema_of(_fields(record, names)).name


def _schema_of(fields: RecordFields) -> Schema:
    for schema in SCHEMAS.values():
        if schema.matches(fields):
            if schema.refuse_others is not None:
                schema.refuse_others(fields)
            return schema
    check_no_preference(fields)
    known = [" with ".join(one.needs) for one in SCHEMAS.values() if not one.only_if_named]
    raise unknown_schema(fields, " or ".join(known))


def read_record(
    record: Any, schema: str | None = None, names: RecordNames = _STANDARD
) -> Conversation | PlainText:
    """Read a record into a conversation or a plain text.

    Args:
        record: The parsed JSON, or the row of a table.
        schema: A name in ``SCHEMAS``; None finds it by the record's fields.
        names: The standard names of its fields and roles.

    Raises:
        RecordError: The schema is not known, a field is missing or has the wrong type, a role is
            not known, or the record must not be trained.
    """
    return read_with_schema(record, schema, names)[1]


def read_with_schema(
    record: Any, schema: str | None, names: RecordNames
) -> tuple[str, Conversation | PlainText]:
    """Read a record as ``read_record`` does; return its schema's name too."""
    fields = _fields(record, names)
    row = _schema_of(fields) if schema is None else SCHEMAS[schema]
    check_can_be_trained(fields, conversation=not row.is_text)
    read = row.read(fields)
    if isinstance(read, str):
        return row.name, PlainText(read, fields.notes())
    tools, arguments = None, {}
    if read.tools or fields.null_arguments or not fields.has_none_of(_BESIDE_TURNS):
        _add_system(fields, read)
        tools = read_tools(fields, read.tools)
        settle_null_arguments(fields, tools)
        arguments = _template_arguments(fields)
    trained = tuple(read.trained)
    return row.name, Conversation(read.messages, trained, tools, arguments, fields.notes())


def _fields(record: Any, names: RecordNames) -> RecordFields:
    if not isinstance(record, dict):
        raise RecordError("not an object", f"it is {type_name(record)}, not an object")
    return RecordFields(names.of_record(record), names)


def _add_system(fields: RecordFields, read: ReadMessages) -> None:
    """Insert the system message that the record has in a field of its own."""
    texts: dict[str, str] = {}
    for name in _SYSTEM:
        value = fields.get(name)
        if not is_empty(value):
            texts[name], _ = read_content(value, f"'{name}'")
    if not texts:
        return
    first = read.messages[0]
    said = {*texts.values(), *([first["content"]] if first["role"] == "system" else [])}
    if len(said) > 1:
        where = [*texts, *(["its first message"] if first["role"] == "system" else [])]
        raise RecordError(
            "two system messages",
            f"it has different system messages in {' and '.join(where)}; keep one",
        )
    if first["role"] != "system":
        read.messages.insert(0, {"role": "system", "content": said.pop()})
        read.trained.insert(0, True)


def _template_arguments(fields: RecordFields) -> dict[str, Any]:
    """Return the variables that the record sets for the template."""
    given = from_json_text(fields.get("chat_template_kwargs"), "'chat_template_kwargs'", "{")
    if given is None or given == "":
        given = {}
    if not isinstance(given, dict):
        raise wrong_type("'chat_template_kwargs'", given, "an object")
    arguments = {name: value for name, value in given.items() if value is not None}
    for name, kind in _ARGUMENTS.items():
        if isinstance(fields.peek(name), kind):
            value = fields.get(name)
            if arguments.setdefault(name, value) != value:
                raise RecordError(
                    "two template arguments",
                    f"its '{name}' is {value!r}, but 'chat_template_kwargs' has "
                    f"{arguments[name]!r}; keep one",
                )
    for name in _NOT_ARGUMENTS:
        if name in arguments:
            raise RecordError(
                "wrong template argument",
                f"its 'chat_template_kwargs' sets {name}, which other fields of the record define; "
                f"remove it there",
            )
    return arguments
