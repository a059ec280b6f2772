"""Reads the conversations that people have into one form: a list of messages.

The schema of a record is found by its fields:

    messages       OpenAI: [{"role": "user", "content": "..."}, ...], perhaps with "tools"
    conversations  ShareGPT: [{"from": "human", "value": "..."}, ...], perhaps with "system"
    instruction    Alpaca: "instruction", "output", perhaps "input", "system" and "history"
    prompt         "prompt" and "completion", texts or lists of OpenAI messages
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

OPENAI_ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
}


class RecordError(ValueError):
    """A record that cannot be used; the message is the reason, in half a sentence."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One record as messages with a role and a content."""

    messages: list[Message]
    tools: list[Any] | None = None


def read_conversation(record: Any) -> Conversation:
    """Turn a record of any known schema into a conversation.

    Raises:
        RecordError: The schema is not known, a field has the wrong type, a role is not known, or
            there is no assistant message to train on.
    """
    if not isinstance(record, dict):
        raise RecordError(f"it is a {_name(record)}, not an object")
    for field, read in _SCHEMAS.items():
        if field in record:
            conversation = read(record)
            break
    else:
        fields = ", ".join(sorted(map(str, record))) or "none"
        raise RecordError(
            f"its schema is not known: it has the fields {fields}, "
            f"and none of {', '.join(_SCHEMAS)}"
        )
    if not any(message["role"] == "assistant" for message in conversation.messages):
        raise RecordError("it has no assistant message, so nothing would be trained")
    return conversation


def _openai(record: dict[str, Any]) -> Conversation:
    tools = record.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise RecordError(f"'tools' is a {_name(tools)}, not a list")
    return Conversation(_openai_messages(record, "messages"), tools or None)


def _openai_messages(record: dict[str, Any], field: str) -> list[Message]:
    messages: list[Message] = []
    for number, message in enumerate(_list(record, field)):
        where = f"{field}[{number}]"
        if not isinstance(message, dict):
            raise RecordError(f"{where} is a {_name(message)}, not an object")
        role = message.get("role")
        if role not in OPENAI_ROLES:
            raise RecordError(f"{where} has role {role!r}, not one of {', '.join(OPENAI_ROLES)}")
        content = message.get("content")
        if content is None and message.get("tool_calls"):
            messages.append(dict(message, content=""))
            continue
        if not isinstance(content, str):
            raise RecordError(f"{where}.content is a {_name(content)}, not a text")
        messages.append(message)
    return messages


def _sharegpt(record: dict[str, Any]) -> Conversation:
    messages = _system(record)
    for number, turn in enumerate(_list(record, "conversations")):
        where = f"conversations[{number}]"
        if not isinstance(turn, dict):
            raise RecordError(f"{where} is a {_name(turn)}, not an object")
        if "role" in turn and "from" not in turn:
            turn = {"from": turn["role"], "value": turn.get("content")}
        role = SHAREGPT_ROLES.get(str(turn.get("from")))
        if role is None:
            raise RecordError(
                f"{where} is from {turn.get('from')!r}, not one of {', '.join(SHAREGPT_ROLES)}"
            )
        messages.append({"role": role, "content": _text(turn, "value", where)})
    return Conversation(messages)


def _alpaca(record: dict[str, Any]) -> Conversation:
    messages = _system(record)
    for number, turn in enumerate(record.get("history") or []):
        pair = isinstance(turn, list | tuple) and len(turn) == 2
        if not pair or not all(isinstance(text, str) for text in turn):
            raise RecordError(f"history[{number}] is not a pair of texts")
        messages += [_user(turn[0]), _assistant(turn[1])]
    prompt = _text(record, "instruction")
    if record.get("input"):
        prompt += "\n" + _text(record, "input")
    return Conversation([*messages, _user(prompt), _assistant(_text(record, "output"))])


def _prompt_completion(record: dict[str, Any]) -> Conversation:
    if isinstance(record["prompt"], list):
        prompt = _openai_messages(record, "prompt")
        return Conversation(prompt + _openai_messages(record, "completion"))
    prompt_text, completion = _text(record, "prompt"), _text(record, "completion")
    return Conversation([*_system(record), _user(prompt_text), _assistant(completion)])


_SCHEMAS: dict[str, Callable[[dict[str, Any]], Conversation]] = {
    "messages": _openai,
    "conversations": _sharegpt,
    "instruction": _alpaca,
    "prompt": _prompt_completion,
}


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _system(record: dict[str, Any]) -> list[Message]:
    if not record.get("system"):
        return []
    return [{"role": "system", "content": _text(record, "system")}]


def _text(record: dict[str, Any], field: str, where: str = "") -> str:
    value = record.get(field)
    if not isinstance(value, str):
        name = f"{where}.{field}" if where else f"'{field}'"
        raise RecordError(f"{name} is a {_name(value)}, not a text")
    return value


def _list(record: dict[str, Any], field: str) -> list[Any]:
    value = record.get(field)
    if not isinstance(value, list):
        raise RecordError(f"'{field}' is a {_name(value)}, not a list")
    if not value:
        raise RecordError(f"'{field}' is empty")
    return value


def _name(value: Any) -> str:
    return "null" if value is None else type(value).__name__
