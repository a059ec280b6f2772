# SPDX-License-Identifier: Apache-2.0
"""Renders conversations through a chat template.

A conversation is rendered as ``transformers.utils.chat_template_utils`` renders it. What is more
here: one rendering also tells where in the text each message began and what was generated, the date
that templates may write is that of the run, not of the moment, and tool calls and thoughts are
given in the form that the template reads.
"""

from __future__ import annotations

import datetime
import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from megatron_packing.chat.message_watch import MessageWatch, WatchedMessages
from megatron_packing.chat.template_environment import CLOSE, OPEN, Work, template_environment
from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Message

_ANY_MARK = re.compile(f"[{OPEN}{CLOSE}]")

GIVEN_VARIABLES = frozenset(("messages", "tools", "documents", "add_generation_prompt"))
"""Variables of a template that the run sets for each rendering."""

THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Fields in which an assistant message thinks, beside its content; the first that is there counts,
as in transformers."""

Span = tuple[int, int]
"""First and last character, the end excluded."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A conversation as text."""

    text: str
    generated: list[Span] = field(default_factory=list)
    """What stands between ``{% generation %}`` marks, in order."""
    starts: list[int] | None = None
    """Where each message was first read. None where a message was read that the text had not come
    to yet, or the number of messages, or where they were not watched."""


@dataclass(frozen=True, slots=True)
class _CallForm:
    """How a template wants messages that call tools."""

    arguments_are_texts: bool = False
    """Whether arguments must be JSON texts, as for DeepSeek, rather than objects."""
    takes_null: bool = False
    """Whether calls beside a content of null are written, and the null is not."""
    takes_empty: bool = True
    """Whether calls beside an empty content are written."""


class ChatTemplate:
    """A compiled Jinja template and the variables it is rendered with."""

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str] | None = None,
        date: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        most_characters: int = 1 << 25,
    ) -> None:
        """Compile.

        Args:
            source: The template.
            variables: Special tokens (``bos_token``, ...).
            date: ISO 8601, what ``strftime_now`` formats; None is today.
            arguments: What the template asks for beside.
            most_characters: Longest text that a template may make.

        Raises:
            InputError: It is not a template, or does not read an argument.
        """
        now = datetime.datetime.fromisoformat(date) if date else datetime.datetime.now()
        self._work = Work(most_characters)
        environment = template_environment(self._work, now)
        import jinja2.meta

        self.source = source
        self._variables = {**(variables or {}), **(arguments or {})}
        try:
            self._template = environment.from_string(source)
            tree = environment.parse(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise InputError(
                f"the chat template is not valid Jinja ({error}); correct it or give another"
            ) from error
        self.reads: frozenset[str] = frozenset(jinja2.meta.find_undeclared_variables(tree))
        """The variables that it reads."""
        unread = sorted(set(arguments or {}) - self.reads)
        if unread:
            free = sorted(self.reads - GIVEN_VARIABLES - {"raise_exception"})
            raise InputError(
                f"--template-argument names {', '.join(unread)}, which the chat template does not "
                f"read; it reads {', '.join(free)}"
            )
        constants = tree.find_all(jinja2.nodes.TemplateData)
        self.has_marks = any(OPEN in constant.data for constant in constants)
        """Whether it marks what the model generates."""
        self._thoughts = _thoughts_written(tree)
        self._calls = _CallForm()
        self._calls = self._find_call_form()

    def render(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        *,
        prompt: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of messages, with the opening of the next answer if ``prompt``.

        Args:
            messages: With roles and contents.
            tools: Their definitions.
            prompt: What templates know as ``add_generation_prompt``.
            arguments: More variables, which go before those of the run.

        Raises:
            RecordError: The template refuses the conversation, or does too much work.
            InputError: It writes a variable that nobody defined.
        """
        text = "".join(self._parts(self._prepared(messages), tools, prompt, arguments))
        return _ANY_MARK.sub("", text) if self.has_marks else text

    def render_marked(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Rendering:
        """The text of messages and what was generated.

        Raises:
            RecordError: The template refuses the conversation.
        """
        self._check_no_marks(messages)
        text = "".join(self._parts(self._prepared(messages), tools, False, arguments))
        return _without_marks(text, None)

    def render_watched(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Rendering:
        """The text of messages, where each began, and what was generated.

        Raises:
            RecordError: The template refuses the conversation.
        """
        self._check_no_marks(messages)
        watch = MessageWatch(len(messages))
        parts: list[str] = []
        watched = WatchedMessages(self._prepared(messages), watch)
        for part in self._parts(watched, tools, False, arguments):
            parts.append(part)
            watch.length += len(part)
        return _without_marks("".join(parts), watch.starts)

    def _parts(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        prompt: bool,
        arguments: Mapping[str, Any] | None,
    ) -> Iterator[str]:
        variables = {
            **self._variables,
            **(arguments or {}),
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": prompt,
        }
        self._work.begin(list.__len__(messages))
        characters = 0
        with _refusals():
            context = self._template.new_context(variables)
            for part in self._template.root_render_func(context):
                characters += len(part)
                self._work.check_size(characters)
                yield part

    def _check_no_marks(self, messages: list[Message]) -> None:
        if self.has_marks and any(
            mark in (message["content"] or "") for message in messages for mark in (OPEN, CLOSE)
        ):
            raise RecordError("noncharacter", "it has U+FDD0 or U+FDD1, which are no characters")

    def _prepared(self, messages: list[Message]) -> list[Message]:
        """Messages with calls and thoughts in the form that this template reads."""
        return [
            message if len(message) == 2 and message["content"] is not None else self._form(message)
            for message in messages
        ]

    def _form(self, message: Message) -> Message:
        formed = dict(message)
        if "tool_calls" in formed:
            if self._calls.arguments_are_texts:
                formed["tool_calls"] = [_with_text_arguments(one) for one in formed["tool_calls"]]
            content = formed["content"]
            if content is None and not self._calls.takes_null:
                formed["content"] = ""
            elif content == "" and self._calls.takes_null and not self._calls.takes_empty:
                formed["content"] = None
        elif formed["content"] is None:
            formed["content"] = ""
        given = [formed[name] for name in THOUGHTS if formed.get(name) is not None]
        for name in THOUGHTS:
            if formed.get(name, 0) is None:
                del formed[name]
        if given:
            for name in self._thoughts:
                formed.setdefault(name, given[0])
            formed["reasoning_content"] = given[0]
        return formed

    def _find_call_form(self) -> _CallForm:
        """The first form in which calls are written whole; content of null goes before none."""
        written: dict[tuple[bool, str | None], bool] = {}
        for arguments_are_texts in (False, True):
            for content in (None, ""):
                written[arguments_are_texts, content] = self._writes_calls(
                    content, arguments_are_texts
                )
            takes_null, takes_empty = (written[arguments_are_texts, one] for one in (None, ""))
            if takes_null or takes_empty:
                return _CallForm(arguments_are_texts, takes_null, takes_empty)
        return _CallForm()

    def _writes_calls(self, content: str | None, arguments_are_texts: bool) -> bool:
        self._calls = _CallForm(arguments_are_texts, content is None, content is not None)
        function = {"name": "call_of_f", "arguments": {"of_x": 1}}
        call = {"id": "abcdefghi", "type": "function", "function": function}
        messages: list[Message] = [
            {"role": "user", "content": "f?"},
            {"role": "assistant", "content": content, "tool_calls": [call]},
        ]
        try:
            asked = self.render(messages[:1], None, prompt=False)
            text = self.render(messages, None, prompt=False)
        except (RecordError, InputError):
            return False
        whole = "call_of_f" in text and "of_x" in text
        return whole and text.count("None") == asked.count("None")


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (RecordError, InputError, MemoryError):
        raise
    except RecursionError as error:
        raise RecordError("template", "the chat template goes too deep for it") from error
    except Exception as error:  # whatever a template raises is a reason to refuse the record
        raise RecordError("template", f"the chat template refuses it: {error}") from error


def _thoughts_written(tree: Any) -> tuple[str, ...]:
    """The names under which a template is given a thought, beside ``reasoning_content``.

    As in transformers, but for templates that know the thought as ``reasoning`` alone.
    """
    import jinja2

    names = {node.attr for node in tree.find_all(jinja2.nodes.Getattr)}
    constants = (node.value for node in tree.find_all(jinja2.nodes.Const))
    names |= {value for value in constants if isinstance(value, str)}
    only = "reasoning" in names and not {"reasoning_content", "thinking"} & names
    return ("thinking", "reasoning") if only else ("thinking",)


def _with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    text = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    changed = {**function, "arguments": text}
    return {**call, "function": changed} if "function" in call else changed


def _without_marks(text: str, starts: list[int] | None) -> Rendering:
    """Take the marks out of a text and say where they were."""
    pieces = _ANY_MARK.split(text)
    if len(pieces) == 1:
        return Rendering(text, [], starts)
    edges = [0, *accumulate(len(piece) for piece in pieces[:-1])][1:]
    marks = [mark.start() for mark in _ANY_MARK.finditer(text)]
    if starts is not None:
        starts = [start - bisect_left(marks, start) for start in starts]
    kinds = [text[mark] for mark in marks]
    if kinds != [OPEN, CLOSE] * (len(marks) // 2):
        raise RecordError("template", "the chat template's generation marks overlap")
    spans = list(zip(edges[::2], edges[1::2], strict=True))
    return Rendering("".join(pieces), spans, starts)
