"""Renders conversations through a chat template.

The environment is that of ``transformers.utils.chat_template_utils``: a sandbox with
``raise_exception``, ``strftime_now``, ``tojson``, loop controls and ``{% generation %}``. What is
more here: one rendering also tells where in the text each message began and what was generated,
and the date that templates may write is that of the run, not of the moment.
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
from types import BuiltinMethodType
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.prepare.conversations import Message
from megatron_packing.prepare.message_watch import MessageWatch, WatchedMessages
from megatron_packing.prepare.records import RecordError

# Stand for generation marks in the text: noncharacters, which no text may hold.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_ANY_MARK = re.compile(f"[{_OPEN}{_CLOSE}]")
_OF_DICT = frozenset(dir(dict))
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception"}
# Without format and format_map, which the sandbox watches over.
_SAFE_OF_TEXT = frozenset(name for name in dir(str) if not name.startswith(("_", "format")))

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


class ChatTemplate:
    """A compiled Jinja template and the variables it is rendered with."""

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str] | None = None,
        date: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Compile.

        Args:
            source: The template.
            variables: Special tokens (``bos_token``, ...).
            date: ISO 8601, what ``strftime_now`` formats; None is today.
            arguments: What the template asks for beside.

        Raises:
            InputError: It is not a template, or does not read an argument.
        """
        try:
            import jinja2.meta
        except ImportError as error:
            raise InputError(
                "tokenizing needs jinja2, which is not installed; "
                "install it with: pip install 'megatron-packing[tokenize]'"
            ) from error
        self.source = source
        self._variables = {**(variables or {}), **(arguments or {})}
        now = datetime.datetime.fromisoformat(date) if date else datetime.datetime.now()
        environment = _environment()
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = now.strftime
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise InputError(
                f"the chat template is not valid Jinja ({error}); correct it or give another"
            ) from error
        read = jinja2.meta.find_undeclared_variables(environment.parse(source))
        unread = sorted(set(arguments or {}) - read)
        if unread:
            raise InputError(
                f"--template-argument names {', '.join(unread)}, which the chat template does not "
                f"read; it reads {', '.join(sorted(read - _GIVEN))}"
            )
        constants = environment.parse(source).find_all(jinja2.nodes.TemplateData)
        self.has_marks = any(_OPEN in constant.data for constant in constants)
        """Whether it marks what the model generates."""
        self._tool_arguments_are_texts = self._wants_texts()

    def render(self, messages: list[Message], tools: list[Any] | None, *, prompt: bool) -> str:
        """The text of messages, with the opening of the next answer if ``prompt``.

        Raises:
            RecordError: The template refuses the conversation.
        """
        with _refusals():
            text = "".join(self._parts(self._prepared(messages), tools, prompt=prompt))
        return _ANY_MARK.sub("", text) if self.has_marks else text

    def render_marked(self, messages: list[Message], tools: list[Any] | None) -> Rendering:
        """The text of messages and what was generated.

        Raises:
            RecordError: The template refuses the conversation.
        """
        self._check_no_marks(messages)
        with _refusals():
            text = "".join(self._parts(self._prepared(messages), tools, prompt=False))
        return _without_marks(text, None)

    def render_watched(self, messages: list[Message], tools: list[Any] | None) -> Rendering:
        """The text of messages, where each began, and what was generated.

        Raises:
            RecordError: The template refuses the conversation.
        """
        self._check_no_marks(messages)
        watch = MessageWatch(len(messages))
        parts: list[str] = []
        watched = WatchedMessages(self._prepared(messages), watch)
        with _refusals():
            for part in self._parts(watched, tools, prompt=False):
                parts.append(part)
                watch.length += len(part)
        return _without_marks("".join(parts), watch.starts)

    def _parts(
        self, messages: list[Message], tools: list[Any] | None, *, prompt: bool
    ) -> Iterator[str]:
        variables = {
            **self._variables,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": prompt,
        }
        parts: Iterator[str] = self._template.root_render_func(
            self._template.new_context(variables)
        )
        return parts

    def _check_no_marks(self, messages: list[Message]) -> None:
        if self.has_marks and any(
            mark in message["content"] for message in messages for mark in (_OPEN, _CLOSE)
        ):
            raise RecordError("noncharacter", "it has U+FDD0 or U+FDD1, which are no characters")

    def _prepared(self, messages: list[Message]) -> list[Message]:
        """Messages with tool arguments as this template wants them."""
        if not self._tool_arguments_are_texts:
            return messages
        return [_with_text_arguments(message) for message in messages]

    def _wants_texts(self) -> bool:
        """Whether tool arguments must be JSON texts, as for DeepSeek, rather than objects."""
        self._tool_arguments_are_texts = False
        function = {"name": "f", "arguments": {"x": 1}}
        call = {"id": "abcdefghi", "type": "function", "function": function}
        messages: list[Message] = [
            {"role": "user", "content": "f?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        try:
            self.render(messages, None, prompt=False)
        except RecordError as error:
            return isinstance(error.__cause__, TypeError)
        return False


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a template raises is a reason to refuse the record
        raise RecordError("template", f"the chat template refuses it: {error}") from error


def _with_text_arguments(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        text = json.dumps(function.get("arguments", {}), ensure_ascii=False)
        changed = {**function, "arguments": text}
        calls.append({**call, "function": changed} if "function" in call else changed)
    return {**message, "tool_calls": calls}


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(value, WatchedMessages):
        value = list(value)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


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
    if kinds != [_OPEN, _CLOSE] * (len(marks) // 2):
        raise RecordError("template", "the chat template's generation marks overlap")
    spans = list(zip(edges[::2], edges[1::2], strict=True))
    return Rendering("".join(pieces), spans, starts)


def _environment() -> Any:
    import jinja2.ext
    import jinja2.sandbox
    from jinja2 import nodes

    class Generation(jinja2.ext.Extension):
        """``{% generation %} ... {% endgeneration %}``: what the model itself would write."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            opening = nodes.Output([nodes.TemplateData(_OPEN)])
            closing = nodes.Output([nodes.TemplateData(_CLOSE)])
            return nodes.Scope([opening, *body, closing]).set_lineno(line)

    class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
        """Takes short cuts to ``message.role`` and to the methods of texts, which are safe."""

        def getattr(self, obj: Any, attribute: str) -> Any:
            if type(obj) is dict and attribute not in _OF_DICT:
                if attribute in obj:
                    return obj[attribute]
                return self.undefined(obj=obj, name=attribute)
            if type(obj) is str and attribute in _SAFE_OF_TEXT:
                return getattr(obj, attribute)
            return super().getattr(obj, attribute)

        def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
            if type(obj) is BuiltinMethodType and type(obj.__self__) is str:
                kwargs.pop("_loop_vars", None)  # the compiler's own, for functions of Jinja's
                kwargs.pop("_block_vars", None)
                return obj(*args, **kwargs)
            return super().call(context, obj, *args, **kwargs)

    return Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
