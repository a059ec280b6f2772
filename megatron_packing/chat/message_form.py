# SPDX-License-Identifier: Apache-2.0
"""Gives tool calls and thoughts to a chat template in the form that it reads.

Templates differ in where they read thoughts, in whether the arguments of a call are an object or
JSON text, and in whether a message of calls alone has a null or an empty content.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Message

THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Fields of an assistant message that hold its thoughts. As in transformers, the first one that
exists counts."""


@dataclass(frozen=True, slots=True)
class MessageForm:
    """The form in which a template reads tool calls and thoughts."""

    thought_fields: tuple[str, ...] = ("thinking",)
    """Fields that get the thoughts of a message, in addition to ``reasoning_content``."""
    arguments_are_texts: bool = False
    """Whether arguments are JSON texts, as for DeepSeek, not objects."""
    takes_null: bool = False
    """Whether the template writes the calls of a message with null content, and not the null."""
    takes_empty: bool = True
    """Whether the template writes the calls of a message with empty content."""

    def of_messages(self, messages: list[Message]) -> list[Message]:
        """Return messages with calls and thoughts in this form."""
        return [
            message
            if len(message) == 2 and message["content"] is not None
            else self._of_message(message)
            for message in messages
        ]

    def _of_message(self, message: Message) -> Message:
        formed = dict(message)
        if "tool_calls" in formed:
            if self.arguments_are_texts:
                formed["tool_calls"] = [_with_text_arguments(one) for one in formed["tool_calls"]]
            content = formed["content"]
            if content is None and not self.takes_null:
                formed["content"] = ""
            elif content == "" and self.takes_null and not self.takes_empty:
                formed["content"] = None
        elif formed["content"] is None:
            formed["content"] = ""
        given = [formed[name] for name in THOUGHTS if formed.get(name) is not None]
        for name in THOUGHTS:
            if formed.get(name, 0) is None:
                del formed[name]
        if given:
            for name in self.thought_fields:
                formed.setdefault(name, given[0])
            formed["reasoning_content"] = given[0]
        return formed


def find_form(tree: Any, render: Callable[[list[Message], MessageForm], str]) -> MessageForm:
    """Find the form that a template reads, by rendering a call in each form.

    Of the forms in which calls are written completely, objects are preferred to JSON texts.

    Args:
        tree: The syntax tree of the template.
        render: Renders messages in a form.
    """
    thought_fields = _thought_fields(tree)
    for arguments_are_texts in (False, True):
        takes_null, takes_empty = (
            _writes_calls(
                content,
                MessageForm(
                    thought_fields, arguments_are_texts, content is None, content is not None
                ),
                render,
            )
            for content in (None, "")
        )
        if takes_null or takes_empty:
            return MessageForm(thought_fields, arguments_are_texts, takes_null, takes_empty)
    return MessageForm(thought_fields)


def function_of(call: dict[str, Any]) -> dict[str, Any]:
    """Return the function of a call or of a tool's definition, which may stand alone."""
    function: dict[str, Any] = call.get("function", call)
    return function


def with_function(call: dict[str, Any], function: dict[str, Any]) -> dict[str, Any]:
    """Return a call, or a tool's definition, with another function."""
    return {**call, "function": function} if "function" in call else function


def _writes_calls(
    content: str | None, form: MessageForm, render: Callable[[list[Message], MessageForm], str]
) -> bool:
    function = {"name": "call_of_f", "arguments": {"of_x": 1}}
    call = {"id": "abcdefghi", "type": "function", "function": function}
    messages: list[Message] = [
        {"role": "user", "content": "f?"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
    ]
    try:
        asked = render(messages[:1], form)
        text = render(messages, form)
    except (RecordError, InputError):
        return False
    is_complete = "call_of_f" in text and "of_x" in text
    return is_complete and text.count("None") == asked.count("None")


def _thought_fields(tree: Any) -> tuple[str, ...]:
    """Return the fields in which a template gets thoughts, besides ``reasoning_content``.

    As in transformers, but ``reasoning`` too for templates that read only that field.
    """
    import jinja2

    names = {node.attr for node in tree.find_all(jinja2.nodes.Getattr)}
    constants = (node.value for node in tree.find_all(jinja2.nodes.Const))
    names |= {value for value in constants if isinstance(value, str)}
    only = "reasoning" in names and not {"reasoning_content", "thinking"} & names
    return ("thinking", "reasoning") if only else ("thinking",)


def _with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = function_of(call)
    text = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    return with_function(call, {**function, "arguments": text})
