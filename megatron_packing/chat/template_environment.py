# SPDX-License-Identifier: Apache-2.0
"""The Jinja environment that chat templates run in.

It is the one of ``transformers.utils.chat_template_utils``: a sandbox with ``raise_exception``,
``strftime_now``, ``tojson``, loop controls and ``{% generation %}``. Three things are added:

- A variable that nobody defined may be tested (``is defined``, ``default``, ``if``), not written:
  transformers writes nothing, so a model would be trained without its ``bos_token``.
- Rendering ends at a number of steps, of nested macros and of characters. These limits count work,
  not time, so that a record is refused on every machine or on none.
- ``{% generation %}`` writes two noncharacters, so that any rendering tells what was generated.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinMethodType, MethodType
from typing import Any

from megatron_packing.errors import InputError, missing
from megatron_packing.records.record import RecordError

# Stand for generation marks in the text: noncharacters, which no text may hold.
OPEN, CLOSE = "\ufdd0", "\ufdd1"

_MOST_NESTED_MACROS = 100
_LARGEST_INTEGER_BITS = 1 << 16
_WIDEST_INDENT = 64
_OF_DICT = frozenset(dir(dict))
# Without format and format_map, which the sandbox watches over.
_SAFE_OF_TEXT = frozenset(name for name in dir(str) if not name.startswith(("_", "format")))
_WIDTH = re.compile(r"\d{7}")
_NESTED_FIELD = re.compile(r"\{[^{}]*:[^{}]*\{")  # an argument is a width, as in {:{}}


class Work:
    """What one rendering may do."""

    def __init__(self, most_characters: int) -> None:
        self.most_characters = most_characters
        self.begin(0)

    def begin(self, num_messages: int) -> None:
        """Allow a rendering its share; templates that look back take a square of the messages."""
        self._most_steps = self._steps_left = 2_000_000 + 16 * num_messages**2
        self._nested = 0

    def step(self, number: int = 1) -> None:
        """Count turns of loops, and elements that are gone through."""
        self._steps_left -= number
        if self._steps_left < 0:
            raise RecordError(
                "template", f"the chat template takes more than {self._most_steps:,} steps for it"
            )

    def enter_macro(self) -> None:
        """Count a call of a macro that has not ended."""
        self.step()
        self._nested += 1
        if self._nested > _MOST_NESTED_MACROS:
            raise RecordError(
                "template",
                f"the chat template calls more than {_MOST_NESTED_MACROS} macros within each other "
                f"for it",
            )

    def leave_macro(self) -> None:
        """Count its end."""
        self._nested -= 1

    def check_size(self, size: int) -> None:
        """Refuse a text, or a list, that is longer than any record's."""
        if size > self.most_characters:
            raise RecordError(
                "too long",
                f"the chat template makes more than {self.most_characters:,} characters of it",
            )

    def checked(self, value: Any) -> Any:
        """A value that is no longer than any record's."""
        if isinstance(value, str | list | tuple):
            self.check_size(len(value))
        return value

    def concatenate(self, *values: Any) -> str:
        """Jinja's ``~``."""
        return str(self.checked("".join(map(str, values))))

    def join(self, texts: Iterable[str]) -> str:
        """``"".join``, for the captured output of macros and blocks."""
        return str(self.checked("".join(texts)))

    def count(self, elements: Any) -> Any:
        """What a loop goes through."""
        if isinstance(elements, list):
            self.step(list.__len__(elements) + 1)  # watched messages are not read by this
        elif isinstance(elements, str | tuple | range | Mapping):
            self.step(len(elements) + 1)
        elif isinstance(elements, Iterator):
            return self._counted(elements)
        return elements

    def _counted(self, elements: Iterator[Any]) -> Iterator[Any]:
        for element in elements:
            self.step()
            yield element

    def written(self, value: Any) -> Any:
        """What ``{{ }}`` writes: lists that hold each other many times take long to write."""
        if not isinstance(value, str):
            self._walk(value)
        return value

    def _walk(self, value: Any) -> None:
        if isinstance(value, Mapping):
            self.step(len(value))
            for item in value.values():
                self._walk(item)
        elif isinstance(value, list | tuple):
            self.step(list.__len__(value) if isinstance(value, list) else len(value))
            for item in list.__iter__(value) if isinstance(value, list) else value:
                if isinstance(item, Mapping | list | tuple):
                    self._walk(item)

    def operation(self, operator: str, left: Any, right: Any) -> None:
        """Refuse an operation whose result would be too large to look at."""
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    self.check_size(len(one) * other)
            if isinstance(left, int) and isinstance(right, int):
                _check_integer(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_integer(left.bit_length() * right)
        elif operator == "%" and isinstance(left, str):
            self._check_widths(left)

    def method(self, text: str, name: str, arguments: tuple[Any, ...]) -> None:
        """Refuse a text's method whose result would be too long."""
        if name in ("format", "format_map"):
            self._check_widths(text)
        if name not in ("format", "format_map") or _NESTED_FIELD.search(text):
            for argument in arguments:
                if isinstance(argument, int):
                    self.check_size(argument)
        if name == "replace" and len(arguments) >= 2:
            self._check_replacement(text, *arguments[:2])
        elif name == "join" and arguments and isinstance(arguments[0], list | tuple):
            self._check_joined(text, arguments[0])
        elif name == "expandtabs":
            width = next((one for one in arguments if isinstance(one, int)), 8)
            self.check_size(len(text) + text.count("\t") * width)

    def filter(self, name: str, value: Any, arguments: list[Any]) -> None:
        """Refuse a filter whose work or result would be too large."""
        if isinstance(value, list):
            self.step(list.__len__(value))
        elif isinstance(value, tuple | range | Mapping):
            self.step(len(value))
        integers = [one for one in arguments if isinstance(one, int)]
        for integer in integers:
            self.check_size(integer)
        if name in ("tojson", "pprint", "string", "join", "list"):
            self._walk(value)
        text = value if isinstance(value, str) else ""
        if name == "tojson" and max(integers, default=0) > _WIDEST_INDENT:
            self.check_size(self.most_characters + 1)
        elif name == "indent":
            widths = [len(one) for one in arguments if isinstance(one, str)] + integers
            self.check_size(len(text) + (text.count("\n") + 1) * max(widths, default=4))
        elif name == "replace" and len(arguments) >= 2:
            self._check_replacement(text, *arguments[:2])
        elif name == "join" and isinstance(value, list | tuple):
            self._check_joined(next((one for one in arguments if isinstance(one, str)), ""), value)
        elif name == "format":
            self._check_widths(text)

    def _check_replacement(self, text: str, old: Any, new: Any) -> None:
        if isinstance(old, str) and isinstance(new, str):
            self.check_size(len(text) + text.count(old) * len(new))

    def _check_joined(self, separator: str, texts: list[Any] | tuple[Any, ...]) -> None:
        sizes = sum(len(text) for text in texts if isinstance(text, str))
        self.check_size(sizes + len(separator) * len(texts))

    def _check_widths(self, text: str) -> None:
        if _WIDTH.search(text):
            self.check_size(self.most_characters + 1)


def _check_integer(bits: int) -> None:
    if bits > _LARGEST_INTEGER_BITS:
        raise RecordError(
            "template", f"the chat template computes a number of over {_LARGEST_INTEGER_BITS} bits"
        )


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
    if isinstance(value, list):
        value = list(value)  # watched messages are a list of another class
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def template_environment(work: Work, now: datetime.datetime) -> Any:
    """An environment whose templates do no more than ``work`` allows.

    Args:
        work: The limits; whoever renders calls ``work.begin`` before.
        now: What ``strftime_now`` formats.

    Raises:
        InputError: Jinja is not installed.
    """
    try:
        import jinja2.ext
        import jinja2.sandbox
        import jinja2.visitor
        from jinja2 import nodes
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe"):
            raise
        raise missing("tokenizing", error.name, "tokenize") from error

    class Generation(jinja2.ext.Extension):
        """``{% generation %} ... {% endgeneration %}``: what the model itself would write."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            opening = nodes.Output([nodes.TemplateData(OPEN)])
            closing = nodes.Output([nodes.TemplateData(CLOSE)])
            return nodes.Scope([opening, *body, closing]).set_lineno(line)

    class Counting(jinja2.visitor.NodeTransformer):
        """Makes loops, macros and ``~`` count their work."""

        def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
            self.generic_visit(node)
            node.iter = _call("count", [node.iter], node.lineno)
            if node.recursive:
                node.body = [_statement("step", node.lineno), *node.body]
            return node

        def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
            self.generic_visit(node)
            return _call("concatenate", node.nodes, node.lineno)

        def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
            self.generic_visit(node)
            enter, leave = (
                _statement(name, node.lineno) for name in ("enter_macro", "leave_macro")
            )
            node.body = [enter, *node.body, leave]
            return node

    def _call(name: str, arguments: list[Any], line: int) -> nodes.Call:
        function = nodes.EnvironmentAttribute(name)
        call = nodes.Call(function, arguments, [], None, None)
        return call.set_lineno(line)  # type: ignore[return-value]

    def _statement(name: str, line: int) -> nodes.Node:
        return nodes.ExprStmt(_call(name, [], line)).set_lineno(line)

    assigned: set[str] = set()

    class NobodyDefined(jinja2.Undefined):
        """A variable without a value. What is undefined in a message writes nothing, as usual."""

        __slots__ = ()

        def __str__(self) -> str:
            name = self._undefined_name
            if self._undefined_obj is jinja2.utils.missing and name and name not in assigned:
                raise InputError(
                    f"the chat template writes {name}, which neither the tokenizer nor the record "
                    f"defines; give it with --template-argument {name}=VALUE (nothing after the = "
                    f"writes nothing)"
                )
            return ""

        def _fail(self, *_: Any) -> Any:
            str(self)
            return self._fail_with_undefined_error()

        __html__ = __str__
        __add__ = __radd__ = _fail

    class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
        """Takes short cuts to ``message.role`` and to the methods of texts, which are safe."""

        intercepted_binops = frozenset(("+", "*", "**", "%"))
        concat = work.join
        step = work.step
        count = work.count
        concatenate = work.concatenate
        enter_macro = work.enter_macro
        leave_macro = work.leave_macro

        def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
            tree = super()._parse(source, name, filename)
            assigned.update(
                one.name for one in tree.find_all(nodes.Name) if one.ctx in ("store", "param")
            )
            return Counting().visit(tree)  # type: ignore[no-any-return]

        def getattr(self, obj: Any, attribute: str) -> Any:
            if type(obj) is dict and attribute not in _OF_DICT:
                if attribute in obj:
                    return obj[attribute]
                return self.undefined(obj=obj, name=attribute)
            if type(obj) is str and attribute in _SAFE_OF_TEXT:
                return getattr(obj, attribute)
            return super().getattr(obj, attribute)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "+":
                return work.checked(left + right)
            work.operation(operator, left, right)
            return work.checked(super().call_binop(context, operator, left, right))

        def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
            if type(obj) is BuiltinMethodType and type(obj.__self__) is str:
                kwargs.pop("_loop_vars", None)  # the compiler's own, for functions of Jinja's
                kwargs.pop("_block_vars", None)
                if args:
                    work.method(obj.__self__, obj.__name__, (*args, *kwargs.values()))
                return obj(*args, **kwargs)
            inner = getattr(obj, "__wrapped__", None)  # the sandbox's own form of format
            if type(inner) is BuiltinMethodType and type(inner.__self__) is str:
                work.method(inner.__self__, inner.__name__, (*args, *kwargs.values()))
            if type(obj) is MethodType and obj.__self__ is work:
                return obj(*args)
            return super().call(context, obj, *args, **kwargs)

    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
        undefined=NobodyDefined,
        finalize=work.written,
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = now.strftime
    del environment.globals["lipsum"]  # writes as much as it is asked for
    environment.filters["tojson"] = _to_json
    for name, function in environment.filters.items():
        environment.filters[name] = _limited(name, function, work)
    return environment


def _limited(name: str, function: Callable[..., Any], work: Work) -> Callable[..., Any]:
    # Some are given the environment or the context before the value.
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        value = args[first] if len(args) > first else None
        work.filter(name, value, [*args[first + 1 :], *kwargs.values()])
        return work.checked(function(*args, **kwargs))

    return limited
