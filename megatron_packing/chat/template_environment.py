# SPDX-License-Identifier: Apache-2.0
"""Makes the Jinja environment of chat templates.

It is the environment of ``transformers.utils.chat_template_utils``: a sandbox with
``raise_exception``, ``strftime_now``, ``tojson``, loop controls and ``{% generation %}``. Three
things differ:

- A template may test an undefined variable (``is defined``, ``default``, ``if``), but not write it.
  transformers writes nothing, so a model would be trained without its ``bos_token``.
- A rendering is limited in steps, nested macros and characters; see ``render_limits``.
- ``{% generation %}`` writes a noncharacter at its start and its end, which mark generated text.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable
from types import BuiltinMethodType, MethodType
from typing import Any

from megatron_packing.chat.render_limits import RenderLimits
from megatron_packing.errors import InputError, missing

# Mark the start and the end of generated text. Noncharacters are not valid in texts.
OPEN, CLOSE = "\ufdd0", "\ufdd1"

_OF_DICT = frozenset(dir(dict))
# Without format and format_map, which the sandbox checks.
_SAFE_OF_TEXT = frozenset(name for name in dir(str) if not name.startswith(("_", "format")))


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
        value = list(value)  # watched messages are a subclass of list
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def template_environment(limits: RenderLimits, now: datetime.datetime) -> Any:
    """Make an environment whose templates stay within limits.

    Args:
        limits: The limits. Call ``limits.begin`` before each rendering.
        now: The time that ``strftime_now`` formats.

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
        """``{% generation %} ... {% endgeneration %}``: text that the model generates."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            opening = nodes.Output([nodes.TemplateData(OPEN)])
            closing = nodes.Output([nodes.TemplateData(CLOSE)])
            return nodes.Scope([opening, *body, closing]).set_lineno(line)

    class Counting(jinja2.visitor.NodeTransformer):
        """Makes loops, macros and ``~`` count their steps."""

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

    class Undefined(jinja2.Undefined):
        """Refuses to be written if it is a variable. A field of a message writes nothing."""

        __slots__ = ()

        def __str__(self) -> str:
            name = self._undefined_name
            if self._undefined_obj is jinja2.utils.missing and name and name not in assigned:
                raise InputError(
                    f"the chat template writes {name}, which neither the tokenizer nor the record "
                    f"defines; give it with --template-argument {name}=VALUE (an empty VALUE "
                    f"writes nothing)"
                )
            return ""

        def _fail(self, *_: Any) -> Any:
            str(self)
            return self._fail_with_undefined_error()

        __html__ = __str__
        __add__ = __radd__ = _fail

    class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
        """Skips the checks of the sandbox for ``message.role`` and for safe methods of texts."""

        intercepted_binops = frozenset(("+", "*", "**", "%"))
        concat = limits.join
        step = limits.step
        count = limits.count
        concatenate = limits.concatenate
        enter_macro = limits.enter_macro
        leave_macro = limits.leave_macro

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
                return limits.checked(left + right)
            limits.operation(operator, left, right)
            return limits.checked(super().call_binop(context, operator, left, right))

        def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
            if type(obj) is BuiltinMethodType and type(obj.__self__) is str:
                kwargs.pop("_loop_vars", None)  # the compiler adds these for functions of Jinja
                kwargs.pop("_block_vars", None)
                if args:
                    limits.method(obj.__self__, obj.__name__, (*args, *kwargs.values()))
                return obj(*args, **kwargs)
            inner = getattr(obj, "__wrapped__", None)  # the sandbox wraps format
            if type(inner) is BuiltinMethodType and type(inner.__self__) is str:
                limits.method(inner.__self__, inner.__name__, (*args, *kwargs.values()))
            if type(obj) is MethodType and obj.__self__ is limits:
                return obj(*args)
            return super().call(context, obj, *args, **kwargs)

    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
        undefined=Undefined,
        finalize=limits.written,
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = now.strftime
    del environment.globals["lipsum"]  # writes text of any length
    environment.filters["tojson"] = _to_json
    for name, function in environment.filters.items():
        environment.filters[name] = _limited(name, function, limits)
    return environment


def _limited(name: str, function: Callable[..., Any], limits: RenderLimits) -> Callable[..., Any]:
    # Jinja passes its environment or context to some filters before the value.
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        value = args[first] if len(args) > first else None
        limits.filter(name, value, [*args[first + 1 :], *kwargs.values()])
        return limits.checked(function(*args, **kwargs))

    return limited
