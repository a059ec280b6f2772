# SPDX-License-Identifier: Apache-2.0
"""Reads the conversations that people have into one form: a list of messages.

The schema of a record is found by its fields, those that are not null, or named:

    messages       OpenAI: [{"role": "user", "content": "..."}, ...]
    conversations  ShareGPT: [{"from": "human", "value": "..."}, ...]
    instruction    Alpaca, Dolly: "instruction", "output" or "response", perhaps "input" or
                   "context" and "history"
    prompt         "prompt" and "completion", texts or lists of OpenAI messages
    turns          texts of a user and an assistant in turn; only where it is named
    text           one text without turns, for pre-training

All but the last may have ``system``, ``tools`` or ``functions``, and ``chat_template_kwargs``.
Lists and objects may come as JSON text, as tables have them. Fields of a record that are not read,
and fields of messages that are not known, are noted; what would make a wrong document is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from megatron_packing.records.record import RecordError, is_empty, type_name
from megatron_packing.schemas.flat_records import (
    read_alpaca,
    read_prompt_completion,
    read_turns,
)
from megatron_packing.schemas.message_content import read_content
from megatron_packing.schemas.messages import Message, ReadMessages, read_messages
from megatron_packing.schemas.record_fields import RecordFields, RecordNames, from_json_text
from megatron_packing.schemas.refused_records import (
    check_can_be_trained,
    check_no_preference,
    check_no_tree,
    unknown_schema,
)
from megatron_packing.schemas.tool_fields import read_tools, settle_null_arguments

__all__ = [
    "SCHEMAS",
    "Conversation",
    "Message",
    "PlainText",
    "find_schema",
    "read_record",
    "read_with_schema",
]

_SYSTEM = ("system", "system_prompt", "system_message")
_ARGUMENTS = {"enable_thinking": bool, "thinking": bool, "reasoning_effort": str}
"""Fields of a record that are variables of the template, where they are of this type."""
_BESIDE_TURNS = frozenset([*_SYSTEM, "tools", "functions", "chat_template_kwargs", *_ARGUMENTS])
_NOT_ARGUMENTS = ("messages", "tools", "documents", "add_generation_prompt")
_STANDARD = RecordNames()


@dataclass(frozen=True, slots=True)
class Conversation:
    """One record as messages with a role and a content: a text, or null beside tool calls."""

    messages: list[Message]
    trained: tuple[bool, ...]
    """For each message, whether the record lets it be trained."""
    tools: list[Any] | None = None
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """Variables that the record itself gives the template, such as ``enable_thinking``."""
    notes: tuple[str, ...] = ()
    """What is counted and reported about the record; see ``EncodedBatch.notes``."""


@dataclass(frozen=True, slots=True)
class PlainText:
    """One record without turns."""

    text: str
    notes: tuple[str, ...] = ()
    """As in ``Conversation``."""


def find_schema(record: Any, names: RecordNames = _STANDARD) -> str:
    """The name of a record's schema.

    Args:
        record: What the JSON text or the row of a table holds.
        names: What fields mean whose names are not standard.

    Raises:
        RecordError: It is no object, or has the fields of none, or is only a part of a
            conversation.
    """
    return _schema_of(_fields(record, names))


def _schema_of(fields: RecordFields) -> str:
    for name, (needed, _) in _SCHEMAS.items():
        if all(field in fields for field in needed):
            if name == "text":
                check_no_tree(fields)
            if name != "turns" or "turns" in fields.names.fields.values():
                return name
    check_no_preference(fields)
    known = " or ".join(
        " with ".join(needed) for name, (needed, _) in _SCHEMAS.items() if name != "turns"
    )
    raise unknown_schema(fields, known)


def read_record(
    record: Any, schema: str | None = None, names: RecordNames = _STANDARD
) -> Conversation | PlainText:
    """Turn a record of a known schema into a conversation or a text.

    Args:
        record: What the JSON text or the row of a table holds.
        schema: One of ``SCHEMAS``; None finds it by the record's fields.
        names: What fields and roles mean whose names are not standard.

    Raises:
        RecordError: The schema is not known, a field is missing or has the wrong type, a role is
            not known, or the record is not to be trained.
    """
    return read_with_schema(record, schema, names)[1]


def read_with_schema(
    record: Any, schema: str | None, names: RecordNames
) -> tuple[str, Conversation | PlainText]:
    """As ``read_record``, with the schema's name."""
    fields = _fields(record, names)
    if schema is None:
        schema = _schema_of(fields)
    check_can_be_trained(fields, conversation=schema != "text")
    if schema == "text":
        text = fields.text("text")
        if not text:
            raise RecordError("empty text", "'text' is empty")
        return schema, PlainText(text, fields.notes())
    read = _SCHEMAS[schema][1](fields)
    tools, arguments = None, {}
    if read.tools or fields.null_arguments or not fields.has_none_of(_BESIDE_TURNS):
        _add_system(fields, read)
        tools = read_tools(fields, read.tools)
        settle_null_arguments(fields, tools)
        arguments = _template_arguments(fields)
    trained = tuple(read.trained)
    return schema, Conversation(read.messages, trained, tools, arguments, fields.notes())


def _fields(record: Any, names: RecordNames) -> RecordFields:
    if not isinstance(record, dict):
        raise RecordError("not an object", f"it is a {type_name(record)}, not an object")
    return RecordFields(record, names)


def _openai(fields: RecordFields) -> ReadMessages:
    return read_messages(fields.list_of("messages"), "messages", fields)


def _sharegpt(fields: RecordFields) -> ReadMessages:
    values = fields.list_of("conversations")
    return read_messages(values, "conversations", fields, sharegpt=True)


_SCHEMAS: dict[str, tuple[tuple[str, ...], Callable[[RecordFields], ReadMessages]]] = {
    "openai": (("messages",), _openai),
    "sharegpt": (("conversations",), _sharegpt),
    "alpaca": (("instruction",), read_alpaca),
    "prompt-completion": (("prompt", "completion"), read_prompt_completion),
    "turns": (("turns",), read_turns),
    "text": (("text",), lambda _: ReadMessages()),
}
SCHEMAS = tuple(_SCHEMAS)


def _add_system(fields: RecordFields, read: ReadMessages) -> None:
    """Put the record's own system message, which stands beside its turns, before them."""
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
    """What the record itself sets for the template."""
    given = from_json_text(fields.get("chat_template_kwargs"), "'chat_template_kwargs'", "{")
    if given is None or given == "":
        given = {}
    if not isinstance(given, dict):
        raise RecordError(
            "wrong type", f"'chat_template_kwargs' is a {type_name(given)}, not an object"
        )
    arguments = {name: value for name, value in given.items() if value is not None}
    for name, kind in _ARGUMENTS.items():
        if isinstance(fields.peek(name), kind):
            value = fields.get(name)
            if arguments.setdefault(name, value) != value:
                raise RecordError(
                    "two template arguments",
                    f"its '{name}' is {value!r} and {arguments[name]!r} in 'chat_template_kwargs'",
                )
    for name in _NOT_ARGUMENTS:
        if name in arguments:
            raise RecordError(
                "wrong template argument",
                f"its 'chat_template_kwargs' sets {name}, which the record's own fields give",
            )
    return arguments
