# SPDX-License-Identifier: Apache-2.0
"""Reads lists of messages in the format of OpenAI or ShareGPT, and converts them to OpenAI's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from megatron_packing.records.record import RecordError, is_empty, shown, wrong_type
from megatron_packing.schemas.field_names import ROLES
from megatron_packing.schemas.message_content import (
    THOUGHTS,
    check_no_media,
    read_content,
    take_thought,
)
from megatron_packing.schemas.record_fields import RecordFields, from_json_text
from megatron_packing.schemas.tool_fields import read_calls
from megatron_packing.schemas.training_marks import check_no_unknown_mark, take_mark

Message = dict[str, Any]

_CALLS = "function_call"
_COMMON_ROLES = {
    **{role: role for role in ROLES},
    "tool_call": _CALLS,
    **dict.fromkeys(("function", "ipython", "observation"), "tool"),
    **dict.fromkeys(("function_response", "tool_response"), "tool"),
}
OPENAI_ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    **_COMMON_ROLES,
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "model"), "assistant"),
}
# Standard roles that errors suggest for unknown ones.
_LIKELY_ROLES = {
    **_SHAREGPT_ROLES,
    "prompter": "user",
    **dict.fromkeys(("bot", "ai", "answer", "model"), "assistant"),
}
_NOT_NOTED = frozenset(("name", "tool_call_id", "tool_calls", *THOUGHTS))


@dataclass(slots=True)
class ReadMessages:
    """Messages with a role and a content, which is a text, or null beside tool calls."""

    messages: list[Message] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    """For each message, whether the record allows training on it."""
    tools: list[tuple[str, Any]] = field(default_factory=list)
    """Tools that system messages define, each with the name of its field for errors."""

    def add(self, message: Message, trained: bool = True) -> None:
        """Append a message."""
        self.messages.append(message)
        self.trained.append(trained)


def read_openai(fields: RecordFields) -> ReadMessages:
    """Read ``messages``; see ``read_messages``."""
    return read_messages(fields.list_of("messages"), "messages", fields)


def read_sharegpt(fields: RecordFields) -> ReadMessages:
    """Read ``conversations``; see ``read_messages``."""
    values = fields.list_of("conversations")
    return read_messages(values, "conversations", fields, sharegpt=True)


def read_messages(
    values: list[Any], where: str, fields: RecordFields, *, sharegpt: bool = False
) -> ReadMessages:
    """Read a list of messages.

    Args:
        values: The messages, as objects or their JSON texts.
        where: The name of the list, for errors.
        fields: The record, which collects notes.
        sharegpt: Prefer ``from`` and ``value`` if a message also has ``role`` and ``content``, and
            accept ShareGPT's roles in both.

    Raises:
        RecordError: A message has no known role, no text, or an unclear training mark.
    """
    read = ReadMessages()
    usual_names = not fields.names.fields and not fields.names.roles
    last_is_calls = False
    for number, value in enumerate(values):
        if usual_names and type(value) is dict and len(value) == 2:
            message = _plain(value)
            if message is not None:
                read.messages.append(message)
                read.trained.append(True)
                last_is_calls = False
                continue
        place = f"{where}[{number}]"
        value = from_json_text(value, place, "{")
        if not isinstance(value, dict):
            raise wrong_type(place, value, "an object")
        kept = fields.names.of_message(value, place)
        role = _take_role(kept, place, fields, sharegpt)
        has_null = any(value.get(name, 0) is None for name in ("content", "value"))
        message, trained = _message(role, kept, place, fields, sharegpt, has_null)
        if message["role"] == "system" or message["role"] == "developer":
            for name in ("tools", "functions"):
                if name in message:
                    read.tools.append((f"{place}.{name}", message.pop(name)))
        for name in message:
            if name not in _NOT_NOTED and name != "role" and name != "content":
                fields.note("unknown message fields, passed to the chat template", name)
        if role == _CALLS and last_is_calls and trained == read.trained[-1]:
            read.messages[-1]["tool_calls"] += message["tool_calls"]  # parallel calls of one turn
            continue
        read.add(message, trained)
        last_is_calls = role == _CALLS
    return read


def _plain(value: dict[Any, Any]) -> Message | None:
    """Return a message that has only a standard role and a text, as nearly all do; else None."""
    role, content = value.get("role"), value.get("content")
    if type(role) is str and type(content) is str and role in OPENAI_ROLES:
        return value
    role, content = value.get("from"), value.get("value")
    if type(role) is str and type(content) is str:
        role = _SHAREGPT_ROLES.get(role, _CALLS)
        return None if role == _CALLS else {"role": role, "content": content}
    return None


def _take_role(message: Message, where: str, fields: RecordFields, sharegpt: bool) -> str:
    """Remove a message's role from its fields; return the standard role."""
    names = ("from", "role") if sharegpt else ("role", "from")
    holder = next((name for name in names if name in message), None)
    if holder is None:
        present = ", ".join(sorted(map(shown, message))[:10]) or "none"
        raise RecordError(
            "no role",
            f"{where} has no role: its fields are {present}; say which ones hold the role and the "
            f"text with --field NAME=role and --field NAME=content",
        )
    name = message.pop(holder)
    known = _SHAREGPT_ROLES if sharegpt or holder == "from" else _COMMON_ROLES
    role = None
    if isinstance(name, str):
        role = known.get(fields.names.role(name))
    if role is not None:
        if "role" in message and _take_role(message, where, fields, sharegpt) != role:
            raise RecordError(
                "two roles", f"{where} has different roles in 'from' and 'role'; keep one"
            )
        return role
    found = f"{where} {'is from' if holder == 'from' else 'has role'}"
    if not isinstance(name, str):
        raise RecordError("unknown role", f"{found} {name!r:.60}, which is not a text")
    likely = _LIKELY_ROLES.get(name) or _LIKELY_ROLES.get(name.lower())
    cure = (
        f"if it means {likely}, add --role {shown(name)}={likely}"
        if likely
        else f"say what it means with --role {shown(name)}=ROLE"
    )
    raise RecordError(
        "unknown role", f"{found} '{shown(name)}', not one of {', '.join(ROLES)}; {cure}"
    )


def _message(
    role: str, values: Message, where: str, fields: RecordFields, sharegpt: bool, has_null: bool
) -> tuple[Message, bool]:
    """Make a message in OpenAI's format from its other fields; return whether it is trained too."""
    mark = take_mark(values, where)
    check_no_unknown_mark(values, where)
    check_no_media(values, where)
    if mark and role not in ("assistant", _CALLS):
        fields.note("messages marked as trained that are not answers (--loss-on decides)", role)
    names = ("value", "content") if sharegpt else ("content", "value")
    holder = next((name for name in names if name in values), None)
    content = None if holder is None else values.pop(holder)
    place = f"{where}.{holder}"
    if "content" in values and values.pop("content") != content:
        raise RecordError(
            "two texts", f"{where} has different texts in 'value' and 'content'; keep one"
        )
    calls = _take_calls(values, where, fields)
    if role == _CALLS:
        role, beside = "assistant", calls
        calls = read_calls(content, place, fields)
        content = None
        if bool(calls) == bool(beside):
            found = "tool calls in its content and beside it" if calls else "no tool call"
            raise RecordError("wrong tool call", f"{where} has {found}")
        calls = calls or beside
    text, thought = ("", None) if content is None else read_content(content, place)
    take_thought(values, thought, where)
    if content is None and not calls and not any(map(values.get, THOUGHTS)):
        if has_null:
            raise RecordError(
                "no content",
                f"{where} has null as its content, and no tool call or thought; give it a text, or "
                f"remove the message",
            )
        raise RecordError(
            "no content",
            f"{where} has no content; if another field holds its text, add --field NAME=content",
        )
    message = {"role": role, "content": text, **values}
    if calls:
        message["tool_calls"] = calls
        if content is None:
            message["content"] = None  # some templates write calls only beside null
    return message, mark is not False


def _take_calls(values: Message, where: str, fields: RecordFields) -> list[dict[str, Any]]:
    calls, older = values.pop("tool_calls", None), values.pop("function_call", None)
    read = [] if calls == {} else read_calls(calls, f"{where}.tool_calls", fields)
    if is_empty(older):
        return read
    if read:
        raise RecordError(
            "wrong tool call", f"{where} has both tool_calls and function_call; keep one"
        )
    return read_calls([{"type": "function", "function": older}], f"{where}.function_call", fields)
