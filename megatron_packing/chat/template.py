# SPDX-License-Identifier: Apache-2.0
"""Renders conversations by a chat template.

The text is that of ``transformers.utils.chat_template_utils``. In addition, one rendering gives the
start of each message and the generated spans. Templates write the date of the run as today. Tool
calls and thoughts are given in the form that the template reads.
"""

from __future__ import annotations

import datetime
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from megatron_packing.chat.message_form import MessageForm, find_form
from megatron_packing.chat.message_watch import MessageWatch, WatchedMessages
from megatron_packing.chat.render_limits import RenderLimits
from megatron_packing.chat.template_environment import CLOSE, OPEN, template_environment
from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Message

_ANY_MARK = re.compile(f"[{OPEN}{CLOSE}]")

GIVEN_VARIABLES = frozenset(("messages", "tools", "documents", "add_generation_prompt"))
"""Variables of a template that the run sets for each rendering."""

Span = tuple[int, int]
"""The first character, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """The text of a conversation."""

    text: str
    generated: list[Span] = field(default_factory=list)
    """The spans between ``{% generation %}`` marks, in order."""
    starts: list[int] | None = None
    """The length of the text when each message was first read. None if messages were not watched,
    or if the template read a message early or the number of messages."""


class ChatTemplate:
    """A compiled Jinja template and its variables."""

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str] | None = None,
        date: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        most_characters: int = 1 << 25,
    ) -> None:
        """Compile a template.

        Args:
            source: The text of the template.
            variables: Special tokens (``bos_token``, ...).
            date: The date that ``strftime_now`` formats, in ISO 8601; None is today.
            arguments: Other variables of the template.
            most_characters: The most characters of a rendered text.

        Raises:
            InputError: The text is not a template, or the template does not read an argument.
        """
        now = datetime.datetime.fromisoformat(date) if date else datetime.datetime.now()
        self._limits = RenderLimits(most_characters)
        environment = template_environment(self._limits, now)
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
        """The variables that the template reads."""
        unread = sorted(set(arguments or {}) - self.reads)
        if unread:
            free = sorted(self.reads - GIVEN_VARIABLES - {"raise_exception"})
            raise InputError(
                f"--template-argument names {', '.join(unread)}, which the chat template does not "
                f"read; it reads {', '.join(free)}"
            )
        constants = tree.find_all(jinja2.nodes.TemplateData)
        self.has_marks = any(OPEN in constant.data for constant in constants)
        """Whether the template marks generated text."""
        self._form = find_form(tree, self._render_form)

    def render(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        *,
        prompt: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Render messages.

        Args:
            messages: Messages with roles and contents.
            tools: Definitions of tools.
            prompt: Whether to end with the generation prompt (``add_generation_prompt``).
            arguments: Variables that override those of the run.

        Raises:
            RecordError: The template refuses the conversation, or exceeds a limit.
            InputError: The template writes an undefined variable.
        """
        formed = self._form.of_messages(messages)
        return self._plain("".join(self._parts(formed, tools, prompt, arguments)))

    def _render_form(self, messages: list[Message], form: MessageForm) -> str:
        return self._plain("".join(self._parts(form.of_messages(messages), None, False, None)))

    def _plain(self, text: str) -> str:
        return _ANY_MARK.sub("", text) if self.has_marks else text

    def render_marked(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Rendering:
        """Render messages and find the generated spans.

        Raises:
            RecordError: The template refuses the conversation, or exceeds a limit.
        """
        self._check_no_marks(messages)
        formed = self._form.of_messages(messages)
        text = "".join(self._parts(formed, tools, False, arguments))
        return _without_marks(text, None)

    def render_watched(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Rendering:
        """Render messages, and find the start of each message and the generated spans.

        Raises:
            RecordError: The template refuses the conversation, or exceeds a limit.
        """
        self._check_no_marks(messages)
        watch = MessageWatch(len(messages))
        parts: list[str] = []
        watched = WatchedMessages(self._form.of_messages(messages), watch)
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
        self._limits.begin(list.__len__(messages))
        characters = 0
        with _refusals():
            context = self._template.new_context(variables)
            for part in self._template.root_render_func(context):
                characters += len(part)
                self._limits.check_size(characters)
                yield part

    def _check_no_marks(self, messages: list[Message]) -> None:
        if self.has_marks and any(
            mark in (message["content"] or "") for message in messages for mark in (OPEN, CLOSE)
        ):
            raise RecordError("noncharacter", "it has U+FDD0 or U+FDD1, which are not characters")


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (RecordError, InputError, MemoryError):
        raise
    except RecursionError as error:
        raise RecordError("template", "the chat template recurses too deeply for it") from error
    except Exception as error:  # templates may raise any error
        raise RecordError("template", f"the chat template refuses it: {error}") from error


def _without_marks(text: str, starts: list[int] | None) -> Rendering:
    """Remove the marks from a text and return their spans."""
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
