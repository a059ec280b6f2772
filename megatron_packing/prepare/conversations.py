"""Reads the conversations that people have into one form: a list of messages.

The schema of a record is found by its fields, or named:

    messages       OpenAI: [{"role": "user", "content": "..."}, ...], perhaps with "tools"
    conversations  ShareGPT: [{"from": "human", "value": "..."}, ...], perhaps with "system" and
                   "tools"
    instruction    Alpaca, Dolly: "instruction", "output" or "response", perhaps "input" or
                   "context", "system" and "history"
    prompt         "prompt" and "completion", texts or lists of OpenAI messages
    text           one text without turns, for pre-training

A message of the first two schemas may say that it is not trained: ``"train": false`` or
``"weight": 0`` (OpenAI's fine-tuning format).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from megatron_packing.prepare.records import RecordError, type_name

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
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One record as messages with a role and a content, which is a text."""

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


def find_schema(record: Any) -> str:
    """The name of a record's schema.

    Raises:
        RecordError: It is no object, or has the fields of none.
    """
    if not isinstance(record, dict):
        raise RecordError("not an object", f"it is a {type_name(record)}, not an object")
    for name, (fields, _) in _SCHEMAS.items():
        if all(field in record for field in fields):
            return name
    found = ", ".join(sorted(map(str, record))[:20]) or "none"
    raise RecordError(
        "unknown schema",
        f"its schema is not known: it has the fields {found}, where one would have "
        f"{' or '.join(' with '.join(fields) for fields, _ in _SCHEMAS.values())}",
    )


def read_record(record: Any, schema: str | None = None) -> Conversation | PlainText:
    """Turn a record of a known schema into a conversation or a text.

    Args:
        record: What the JSON text or the row of a table holds.
        schema: One of ``SCHEMAS``; None finds it by the record's fields.

    Raises:
        RecordError: The schema is not known, a field is missing or has the wrong type, or a role
            is not known.
    """
    if schema is None:
        schema = find_schema(record)
    elif not isinstance(record, dict):
        raise RecordError("not an object", f"it is a {type_name(record)}, not an object")
    return _SCHEMAS[schema][1](record)


def _openai(record: dict[str, Any]) -> Conversation:
    messages, trained = _openai_messages(record, "messages")
    return Conversation(messages, trained, _tools(record))


def _openai_messages(record: dict[str, Any], field: str) -> tuple[list[Message], tuple[bool, ...]]:
    messages: list[Message] = []
    trained: list[bool] = []
    for number, message in enumerate(_list(record, field)):
        where = f"{field}[{number}]"
        if not isinstance(message, dict):
            raise RecordError("wrong type", f"{where} is a {type_name(message)}, not an object")
        role = message.get("role")
        if not isinstance(role, str) or role not in OPENAI_ROLES:
            raise RecordError(
                "unknown role", f"{where} has role {role!r}, not one of {', '.join(OPENAI_ROLES)}"
            )
        if len(message) == 2 and isinstance(message.get("content"), str):
            messages.append(message)
            trained.append(True)
            continue
        kept = {key: value for key, value in message.items() if key not in ("train", "weight")}
        calls = message.get("tool_calls")
        if not calls and isinstance(message.get("function_call"), dict):  # OpenAI's older form
            calls = [{"type": "function", "function": kept.pop("function_call")}]
        if calls:
            kept["tool_calls"] = _tool_calls(calls, f"{where}.tool_calls")
        else:
            kept.pop("tool_calls", None)
        kept["content"] = _content(message, where, needed=not calls)
        messages.append(kept)
        trained.append(_is_trained(message, where))
    return messages, tuple(trained)


def _content(message: Message, where: str, needed: bool) -> str:
    """A message's content as one text; parts of type text stand for what they are together."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and not needed:
        return ""
    if not isinstance(content, list):
        raise RecordError("wrong type", f"{where}.content is a {type_name(content)}, not a text")
    texts: list[str] = []
    for number, part in enumerate(content):
        part_where = f"{where}.content[{number}]"
        if not isinstance(part, dict) or part.get("type") != "text":
            found = part.get("type") if isinstance(part, dict) else type_name(part)
            raise RecordError(
                "content is not text", f"{part_where} is of type {found!r}; only text can be used"
            )
        texts.append(_text(part, "text", part_where))
    return "".join(texts)


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """OpenAI's tool calls, their arguments, which come as JSON texts, as the objects they are."""
    if not isinstance(calls, list):
        raise RecordError("wrong type", f"{where} is a {type_name(calls)}, not a list")
    read: list[dict[str, Any]] = []
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError("wrong tool call", f"{where}[{number}] names no function")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = _json_text(arguments, f"{where}[{number}].function.arguments")
        function = {**function, "arguments": arguments}
        read.append({**call, "function": function} if "function" in call else function)
    return read


def _json_text(text: str, where: str) -> Any:
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise RecordError("wrong tool call", f"{where} is not JSON ({error})") from error


def _tools(record: dict[str, Any]) -> list[Any] | None:
    tools = record.get("tools")
    if isinstance(tools, str):  # LLaMA-Factory's ShareGPT
        tools = _json_text(tools, "'tools'") if tools.strip() else None
    if tools is not None and not isinstance(tools, list):
        raise RecordError("wrong type", f"'tools' is a {type_name(tools)}, not a list")
    return tools or None


def _is_trained(message: Message, where: str) -> bool:
    train, weight = message.get("train"), message.get("weight")
    if train is not None and not isinstance(train, bool):
        raise RecordError("wrong type", f"{where}.train is {train!r}, not true or false")
    if weight is not None and weight not in (0, 1):
        raise RecordError("wrong type", f"{where}.weight is {weight!r}, not 0 or 1")
    return train is not False and weight != 0


def _sharegpt(record: dict[str, Any]) -> Conversation:
    messages = _system(record)
    trained = [True] * len(messages)
    for number, turn in enumerate(_list(record, "conversations")):
        where = f"conversations[{number}]"
        if not isinstance(turn, dict):
            raise RecordError("wrong type", f"{where} is a {type_name(turn)}, not an object")
        renamed = "role" in turn and "from" not in turn
        sender = turn.get("role" if renamed else "from")
        role = SHAREGPT_ROLES.get(sender) if isinstance(sender, str) else None
        if role is None:
            raise RecordError(
                "unknown role",
                f"{where} is from {sender!r}, not one of {', '.join(SHAREGPT_ROLES)}",
            )
        content = _text(turn, "content" if renamed and "value" not in turn else "value", where)
        if sender == "function_call":
            call = _json_text(content, f"{where}.value")
            calls = [
                {"type": "function", "function": one}
                for one in (call if isinstance(call, list) else [call])
            ]
            message = {"role": role, "content": "", "tool_calls": _tool_calls(calls, where)}
        else:
            message = {"role": role, "content": content}
        messages.append(message)
        trained.append(_is_trained(turn, where))
    return Conversation(messages, tuple(trained), _tools(record))


def _alpaca(record: dict[str, Any]) -> Conversation:
    messages = _system(record)
    history = record.get("history") or []
    if not isinstance(history, list):
        raise RecordError("wrong type", f"'history' is a {type_name(history)}, not a list")
    for number, turn in enumerate(history):
        pair = isinstance(turn, list | tuple) and len(turn) == 2
        if not pair or not all(isinstance(text, str) for text in turn):
            raise RecordError("wrong type", f"history[{number}] is not a pair of texts")
        messages += [_user(turn[0]), _assistant(turn[1])]
    prompt = _text(record, "instruction")
    for name in ("input", "context"):
        if record.get(name):
            prompt += "\n" + _text(record, name)
    answer = _text(record, "response" if "output" not in record else "output")
    return _all_trained([*messages, _user(prompt), _assistant(answer)])


def _prompt_completion(record: dict[str, Any]) -> Conversation:
    if isinstance(record.get("prompt"), list):
        # The prompt's own answers are what was asked about, not what is learned.
        prompt, _ = _openai_messages(record, "prompt")
        completion, of_completion = _openai_messages(record, "completion")
        trained = (False,) * len(prompt) + of_completion
        return Conversation(prompt + completion, trained, _tools(record))
    prompt_text, completion_text = _text(record, "prompt"), _text(record, "completion")
    return _all_trained([*_system(record), _user(prompt_text), _assistant(completion_text)])


def _plain(record: dict[str, Any]) -> PlainText:
    text = _text(record, "text")
    if not text:
        raise RecordError("empty text", "'text' is empty")
    return PlainText(text)


_Reader = Callable[[dict[str, Any]], Conversation | PlainText]
_SCHEMAS: dict[str, tuple[tuple[str, ...], _Reader]] = {
    "openai": (("messages",), _openai),
    "sharegpt": (("conversations",), _sharegpt),
    "alpaca": (("instruction",), _alpaca),
    "prompt-completion": (("prompt", "completion"), _prompt_completion),
    "text": (("text",), _plain),
}
SCHEMAS = tuple(_SCHEMAS)


def _all_trained(messages: list[Message]) -> Conversation:
    return Conversation(messages, (True,) * len(messages))


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
        if field not in record:
            raise RecordError("wrong type", f"{where or 'it'} has no field '{field}'")
        raise RecordError("wrong type", f"{name} is a {type_name(value)}, not a text")
    return value


def _list(record: dict[str, Any], field: str) -> list[Any]:
    value = record.get(field)
    if field not in record:
        raise RecordError("wrong type", f"it has no field '{field}'")
    if not isinstance(value, list):
        raise RecordError("wrong type", f"'{field}' is a {type_name(value)}, not a list")
    if not value:
        raise RecordError("no messages", f"'{field}' is empty")
    return value
