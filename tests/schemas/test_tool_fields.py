# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import read_record

ASKED = {"role": "user", "content": "Why?"}
ANSWERED = {"role": "assistant", "content": "Because."}
FUNCTION = {
    "name": "f",
    "description": "Find.",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def tools_of(**fields):
    return read_record({"messages": [ASKED, ANSWERED], **fields}).tools


def read_call(call, **fields):
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    conversation = read_record({"messages": [ASKED, message], **fields})
    (read,) = conversation.messages[1]["tool_calls"]
    return read, conversation.notes


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL]},
        {"tools": json.dumps([TOOL])},
        {"tools": [json.dumps(TOOL)]},
        {"tools": TOOL},
        {"tools": json.dumps(TOOL)},
        {"tools": {"f": TOOL}},
        {"tools": [{**TOOL, "function": json.dumps(FUNCTION)}]},
        {
            "tools": [
                {**TOOL, "function": {**FUNCTION, "parameters": json.dumps(FUNCTION["parameters"])}}
            ]
        },
        {"functions": [FUNCTION]},
        {"functions": json.dumps([FUNCTION])},
        {"functions": [TOOL]},
        {"functions": [FUNCTION], "tools": [TOOL]},
        {"functions": [FUNCTION], "tools": []},
        {"tools": None, "functions": [json.dumps(FUNCTION)]},
    ],
)
def test_tools_are_objects_in_a_list_whatever_form_they_came_in(fields):
    assert tools_of(**fields) == [TOOL]


@pytest.mark.parametrize("empty", [None, "", " ", "[]", [], {}, "null"])
def test_no_tools_are_none(empty):
    assert tools_of(tools=empty) is None


def test_tools_by_name_get_their_names():
    unnamed = {"description": "Find."}
    assert tools_of(tools={"f": unnamed}) == [{"name": "f", **unnamed}]


@pytest.mark.parametrize("name", ["tools", "functions"])
def test_tools_of_a_system_message_are_the_records(name):
    value = [TOOL] if name == "tools" else [FUNCTION]
    system = {"role": "system", "content": "Be brief.", name: json.dumps(value)}
    conversation = read_record({"messages": [system, ASKED, ANSWERED]})
    assert conversation.tools == [TOOL]
    assert conversation.messages[0] == {"role": "system", "content": "Be brief."}
    assert conversation.notes == ()
    assert read_record({"messages": [system, ASKED, ANSWERED], "tools": [TOOL]}).tools == [TOOL]
    other = {"type": "function", "function": {"name": "g"}}
    with pytest.raises(RecordError, match=r"different tools in 'tools' and messages\[0\]"):
        read_record({"messages": [system, ASKED, ANSWERED], "tools": [other]})


@pytest.mark.parametrize(
    "fields", [{"prompt": "a", "completion": "b"}, {"instruction": "a", "output": "b"}]
)
def test_flat_records_have_tools_too(fields):
    assert read_record({**fields, "tools": [TOOL]}).tools == [TOOL]


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ("search", "'tools' is a text, not a list"),
        (["search"], r"'tools'\[0\] is a text, not an object that describes a tool"),
        ([None, TOOL], r"'tools'\[0\] is null"),
        ("[{", "'tools' is JSON text that cannot be read"),
        (True, "'tools' is a boolean"),
    ],
)
def test_tools_that_are_none_are_refused(tools, reason):
    with pytest.raises(RecordError, match=reason):
        tools_of(tools=tools)


def test_nulls_that_other_rows_fill_in_are_no_part_of_a_tool():
    filled = {
        "type": "function",
        "function": {
            "name": "f",
            "description": "Find.",
            "strict": None,
            "parameters": {
                "type": "object",
                "properties": {
                    "x": {"type": "integer", "enum": None, "default": None},
                    "of_another_row": None,
                    "default": None,
                    "of_a_third_row": {"type": None, "description": None},
                },
                "required": None,
            },
        },
    }
    conversation = read_record({"messages": [ASKED, ANSWERED], "tools": [filled]})
    assert conversation.tools == [TOOL]
    assert len(conversation.notes) == 1
    assert conversation.notes[0].startswith("null fields of tools")


def test_a_null_that_a_schema_may_hold_stays():
    schema = {"default": None, "enum": ["a", None], "const": None, "anyOf": [{"type": "null"}, {}]}
    parameters = {"type": "object", "properties": {"x": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    conversation = read_record({"messages": [ASKED, ANSWERED], "tools": [tool]})
    assert conversation.tools == [tool]
    assert conversation.notes == ()


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        json.dumps(CALL),
        {**CALL, "index": None},
        {**CALL, "function": {"name": "f", "arguments": '{"x": 1}'}},
        {**CALL, "function": json.dumps(CALL["function"])},
        {"name": "f", "arguments": {"x": 1}},
        {"name": "f", "parameters": {"x": 1}},
        {"name": "f", "args": {"x": 1}, "type": "tool_call"},
        {"name": "f", "input": {"x": 1}, "arguments": None},
    ],
)
def test_calls_are_openais_with_arguments_that_are_objects(call):
    assert read_call(call) == (CALL, ())


def test_the_id_of_a_call_stays():
    assert read_call({**CALL, "id": "abc"})[0] == {**CALL, "id": "abc"}
    assert read_call({"name": "f", "arguments": {"x": 1}, "id": "abc"})[0] == {**CALL, "id": "abc"}


def test_a_call_without_arguments_has_none():
    for function in ({"name": "f"}, {"name": "f", "arguments": ""}):
        assert read_call({"function": function})[0]["function"] == {"name": "f", "arguments": {}}


def test_a_list_of_calls_may_be_json_text():
    message = {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])}
    assert read_record({"messages": [ASKED, message]}).messages[1]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({}, "names no function"),
        ({"function": {"name": 3}}, "names no function"),
        ("f(1)", "is a text, not an object"),
        ({"name": "f", "arguments": "{"}, "arguments is not JSON"),
        ({"name": "f", "arguments": "3"}, "arguments is a number, not an object"),
        ({"name": "f", "arguments": [["x", 1]]}, "arguments is a list, not an object"),
        ({"name": "f", "arguments": {}, "args": {}}, "arguments in arguments and args; keep one"),
    ],
)
def test_a_call_that_is_none_is_refused(call, reason):
    with pytest.raises(RecordError, match=rf"messages\[1\].tool_calls\[0\].*{reason}"):
        read_call(call)


def test_null_arguments_are_kept_and_counted():
    call, notes = read_call({"name": "f", "arguments": {"x": None, "y": {"z": None}}})
    assert call["function"]["arguments"] == {"x": None, "y": {"z": None}}
    assert notes == ("tool calls with null arguments, kept: f",)


def test_null_arguments_that_the_tool_does_not_define_are_left_out_and_counted():
    arguments = {"x": 1, "of_another_row": None}
    call, notes = read_call({"name": "f", "arguments": arguments}, tools=[TOOL])
    assert call == CALL
    assert notes == ("null arguments that the tool does not define, dropped: of_another_row",)
    assert arguments == {"x": 1, "of_another_row": None}
    call, notes = read_call({"name": "f", "arguments": {"x": None}}, tools=[TOOL])
    assert call["function"]["arguments"] == {"x": None}
    assert notes == ("tool calls with null arguments, kept: f",)


def test_nulls_in_the_json_text_of_arguments_are_meant():
    call, notes = read_call({"name": "f", "arguments": '{"y": null}'}, tools=[TOOL])
    assert call["function"]["arguments"] == {"y": None}
    assert notes == ()
