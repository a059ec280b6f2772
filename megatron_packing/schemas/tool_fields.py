# SPDX-License-Identifier: Apache-2.0
"""Reads the tools of a record and the calls in its messages, and converts them to OpenAI's format.

Tables store them as JSON text or filled with nulls, because every row of an Arrow table, and of its
JSON export, has the fields of all rows. Except for defaults, a tool's definition cannot contain a
null, so nulls in it are dropped. A null argument that the called tool does not define is dropped
too. Other null arguments may be intended, so they are kept. Both are counted.
"""

from __future__ import annotations

import json
from typing import Any

from megatron_packing.records.record import RecordError, is_empty, type_name, wrong_type
from megatron_packing.schemas.record_fields import RecordFields, from_json_text

# Names for the arguments of a call: of OpenAI, Llama 3, LangChain and Anthropic.
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_MAY_BE_NULL = ("default", "const", "example")


def read_tools(fields: RecordFields, of_messages: list[tuple[str, Any]]) -> list[Any] | None:
    """Return the tools that a record defines, or None.

    Args:
        fields: The record, with ``tools`` or ``functions`` (OpenAI's older format).
        of_messages: Tools that its system messages define, each with its name for errors.

    Raises:
        RecordError: They are not a list of objects, or there are two different definitions.
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
    """Return tool calls in OpenAI's format, with arguments as objects instead of JSON texts.

    Raises:
        RecordError: A call names no function, or its arguments are not an object.
    """
    value = _from_json(value, where)
    if value is None:
        return []
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise wrong_type(where, value, "a list")
    return [_call(call, f"{where}[{number}]", fields) for number, call in enumerate(value)]


def settle_null_arguments(fields: RecordFields, tools: list[Any] | None) -> None:
    """Drop null arguments that the called tool does not define; note them and the other ones.

    Args:
        fields: The record, after its calls were read.
        tools: The result of ``read_tools``.
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
                    fields.note("null arguments that the tool does not define, dropped", argument)
        if _has_null(arguments):
            fields.note("tool calls with null arguments, kept", name)


def _call(call: Any, where: str, fields: RecordFields) -> dict[str, Any]:
    call = _from_json(call, where)
    if not isinstance(call, dict):
        raise RecordError("wrong tool call", f"{where} is {type_name(call)}, not an object")
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
        raise RecordError("wrong tool call", f"{place} is {type_name(arguments)}, not an object")
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
        raise wrong_type(where, value, "a list")
    tools: list[Any] = []
    for number, tool in enumerate(value):
        tool = _from_json(tool, f"{where}[{number}]")
        if not isinstance(tool, dict):
            raise wrong_type(f"{where}[{number}]", tool, "an object that describes a tool")
        tool = _schemas_from_json(tool, f"{where}[{number}]")
        if _is_filled(tool):
            tool = _without_fill(tool)
            fields.note("null fields of tools that only other rows of a table have, dropped")
        if older and "function" not in tool:
            tool = {"type": "function", "function": tool}
        tools.append(tool)
    return tools


def _by_name(value: dict[str, Any]) -> list[Any]:
    """Return the list of tools in an object, which is one tool or maps names to tools."""
    if isinstance(value.get("name"), str) or "function" in value or "type" in value:
        return [value]
    tools: list[Any] = []
    for name, tool in value.items():
        if isinstance(tool, dict) and not {"name", "function"} & tool.keys():
            tool = {"name": name, **tool}
        tools.append(tool)
    return tools


def _schemas_from_json(tool: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a tool with ``function`` and ``parameters`` parsed if they are JSON text."""
    for name in ("function", "parameters"):
        if isinstance(tool.get(name), str):
            tool = {**tool, name: _from_json(tool[name], f"{where}.{name}")}
    function = tool.get("function")
    if isinstance(function, dict):
        return {**tool, "function": _schemas_from_json(function, f"{where}.function")}
    return tool


def _is_filled(value: Any, of_names: bool = False) -> bool:
    """Whether a schema contains a null that is not valid, so a table added it.

    With ``of_names`` the fields are names of properties, not keywords such as ``default``.
    """
    if isinstance(value, dict):
        return any(
            (item is None and (of_names or name not in _MAY_BE_NULL))
            or _is_filled(item, name == "properties" and not of_names)
            for name, item in value.items()
        )
    return isinstance(value, list) and any(map(_is_filled, value))


def _without_fill(value: Any, of_names: bool = False) -> Any:
    """Return a schema without nulls, and without properties that contain nothing else."""
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
