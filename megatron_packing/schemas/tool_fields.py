# SPDX-License-Identifier: Apache-2.0
"""The tools of a record and the calls in its messages, whatever form they came in.

Tables hold them as JSON text, or filled with nulls: every row of an Arrow table, and every line of
its JSON export, has the fields of all rows. A null is not valid in the schema of a tool, but for
a default of null, so nulls there are dropped. So is a null argument that the called tool does not
define. Other null arguments may be meant: they are kept. Both are counted.
"""

from __future__ import annotations

import json
from typing import Any

from megatron_packing.records.record import RecordError, is_empty, type_name
from megatron_packing.schemas.record_fields import RecordFields, from_json_text

# Other frameworks' names for the arguments of a call: Llama 3's own form, LangChain, Anthropic.
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_MAY_BE_NULL = ("default", "const", "example")


def read_tools(fields: RecordFields, of_messages: list[tuple[str, Any]]) -> list[Any] | None:
    """The tools that a record defines, or None.

    Args:
        fields: The record: ``tools``, or ``functions``, OpenAI's older form.
        of_messages: Tools that its system messages define, each with its place.

    Raises:
        RecordError: They are no list of objects, or are defined twice in different ways.
    """
    found: list[tuple[str, list[Any]]] = []
    for where, value, older in (
        ("'tools'", fields.get("tools"), False),
        ("'functions'", fields.get("functions"), True),
        *((where, value, where.endswith("functions")) for where, value in of_messages),
    ):
        tools = _tools(value, where, older, fields)
        if tools and all(tools != before for _, before in found):
            found.append((where, tools))
    if len(found) > 1:
        raise RecordError(
            "two sets of tools",
            f"it defines different tools in {' and '.join(where for where, _ in found)}; keep one",
        )
    return found[0][1] if found else None


def read_calls(value: Any, where: str, fields: RecordFields) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form, their arguments, which come as JSON texts, as objects.

    Raises:
        RecordError: A call names no function, or its arguments are no object.
    """
    value = _from_json(value, where)
    if value is None:
        return []
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise RecordError("wrong type", f"{where} is a {type_name(value)}, not a list")
    return [_call(call, f"{where}[{number}]", fields) for number, call in enumerate(value)]


def settle_null_arguments(fields: RecordFields, tools: list[Any] | None) -> None:
    """Drop null arguments of calls that the called tool does not define; count them and the rest.

    Args:
        fields: The record, whose calls were read.
        tools: What ``read_tools`` found.
    """
    defined: dict[str, Any] = {}
    for tool in tools or []:
        function = tool.get("function", tool)
        parameters = function.get("parameters") if isinstance(function, dict) else None
        if isinstance(parameters, dict) and isinstance(function.get("name"), str):
            defined[function["name"]] = parameters.get("properties")
    for name, arguments in fields.null_arguments:
        if isinstance(defined.get(name), dict):
            for argument in [key for key, value in arguments.items() if value is None]:
                if argument not in defined[name]:
                    del arguments[argument]
                    fields.note("null arguments that the tool does not define, left out", argument)
        if _has_null(arguments):
            fields.note("tool calls with null arguments, which are kept", name)


def _call(call: Any, where: str, fields: RecordFields) -> dict[str, Any]:
    call = _from_json(call, where)
    if not isinstance(call, dict):
        raise RecordError("wrong tool call", f"{where} is a {type_name(call)}, not an object")
    call = {name: value for name, value in call.items() if value is not None}
    wrapped = "function" in call
    function = _from_json(call["function"], f"{where}.function") if wrapped else call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RecordError("wrong tool call", f"{where} names no function")
    function = {name: value for name, value in function.items() if value is not None}
    holders = [name for name in _ARGUMENTS if name in function]
    if len(holders) > 1:
        raise RecordError(
            "wrong tool call", f"{where} has arguments in {' and '.join(holders)}; keep one"
        )
    arguments = function.pop(holders[0]) if holders else {}
    place = f"{where}.function.{holders[0] if holders else 'arguments'}"
    if isinstance(arguments, str):
        arguments = _json(arguments, place) if arguments.strip() else {}
    elif isinstance(arguments, dict) and _has_null(arguments):
        arguments = dict(arguments)
        fields.null_arguments.append((function["name"], arguments))
    if not isinstance(arguments, dict):
        raise RecordError("wrong tool call", f"{place} is a {type_name(arguments)}, not an object")
    function["arguments"] = arguments
    if wrapped:
        return {**call, "function": function}
    identity = {"id": function.pop("id")} if "id" in function else {}
    function.pop("type", None)
    return {**identity, "type": "function", "function": function}


def _tools(value: Any, where: str, older: bool, fields: RecordFields) -> list[Any]:
    value = _from_json(value, where)
    if is_empty(value):
        return []
    if isinstance(value, dict):
        value = _by_name(value)
    if not isinstance(value, list):
        raise RecordError("wrong type", f"{where} is a {type_name(value)}, not a list")
    tools: list[Any] = []
    for number, tool in enumerate(value):
        tool = _from_json(tool, f"{where}[{number}]")
        if not isinstance(tool, dict):
            raise RecordError(
                "wrong type",
                f"{where}[{number}] is a {type_name(tool)}, not an object that describes a tool",
            )
        tool = _schemas_from_json(tool, f"{where}[{number}]")
        if _is_filled(tool):
            tool = _without_fill(tool)
            fields.note("null fields of tools, which other rows of a table have, are left out")
        if older and "function" not in tool:
            tool = {"type": "function", "function": tool}
        tools.append(tool)
    return tools


def _by_name(value: dict[str, Any]) -> list[Any]:
    """The list that an object stands for: one tool, or tools by their names."""
    if isinstance(value.get("name"), str) or "function" in value or "type" in value:
        return [value]
    tools: list[Any] = []
    for name, tool in value.items():
        if isinstance(tool, dict) and not {"name", "function"} & tool.keys():
            tool = {"name": name, **tool}
        tools.append(tool)
    return tools


def _schemas_from_json(tool: dict[str, Any], where: str) -> dict[str, Any]:
    """A tool whose ``function`` and ``parameters`` are objects even where they came as text."""
    for name in ("function", "parameters"):
        if isinstance(tool.get(name), str):
            tool = {**tool, name: _from_json(tool[name], f"{where}.{name}")}
    function = tool.get("function")
    if isinstance(function, dict):
        return {**tool, "function": _schemas_from_json(function, f"{where}.function")}
    return tool


def _is_filled(value: Any, of_names: bool = False) -> bool:
    """Whether there is a null that no schema has, which shows that a table filled it in.

    ``of_names``: the fields are names of properties, such as ``default``, and not keywords.
    """
    if isinstance(value, dict):
        return any(
            (item is None and (of_names or name not in _MAY_BE_NULL))
            or _is_filled(item, name == "properties" and not of_names)
            for name, item in value.items()
        )
    return isinstance(value, list) and any(map(_is_filled, value))


def _without_fill(value: Any, of_names: bool = False) -> Any:
    """A schema without nulls and without properties of which nothing else is left."""
    if isinstance(value, dict):
        return {
            name: _without_fill(item, name == "properties" and not of_names)
            for name, item in value.items()
            if item is not None and not (of_names and item and _is_all_null(item))
        }
    return [_without_fill(item) for item in value] if isinstance(value, list) else value


def _is_all_null(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_all_null, value.values()))
    return value is None


def _has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(item is None or _has_null(item) for item in value.values())
    return isinstance(value, list) and any(map(_has_null, value))


def _from_json(value: Any, where: str) -> Any:
    if isinstance(value, str) and value.strip() in ("", "null"):
        return None
    return from_json_text(value, where, "[{")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError("wrong tool call", f"{where} is not JSON ({error})") from error
