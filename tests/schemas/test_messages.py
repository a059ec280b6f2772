# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import read_record
from megatron_packing.schemas.record_names import RecordNames

ASKED = {"role": "user", "content": "Why?"}
ANSWERED = {"role": "assistant", "content": "Because."}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def read(*messages, **options):
    return read_record({"messages": list(messages)}, **options).messages


@pytest.mark.parametrize(
    "role", ["function", "ipython", "observation", "tool_response", "function_response"]
)
def test_other_names_of_a_tools_answer_are_tool(role):
    answer = {"role": role, "name": "f", "content": "2"}
    expected = [ASKED, CALLED, {**answer, "role": "tool"}, ANSWERED]
    assert read(ASKED, CALLED, answer, ANSWERED) == expected


@pytest.mark.parametrize(
    ("role", "meaning"),
    [
        *(("human", "user"), ("User", "user"), ("prompter", "user")),
        *(("gpt", "assistant"), ("model", "assistant"), ("bot", "assistant")),
        *(("Assistant", "assistant"), ("SYSTEM", "system")),
    ],
)
def test_a_role_that_is_refused_is_named_with_the_option_that_helps(role, meaning):
    message = {"role": role, "content": "x"}
    with pytest.raises(RecordError, match=f"{role}.*; if it means {meaning}, add --role {role}="):
        read(message, ANSWERED)
    names = RecordNames(roles={role: meaning})
    assert read(message, ANSWERED, names=names) == [{**message, "role": meaning}, ANSWERED]


def test_a_role_that_nobody_knows_is_refused_with_the_option():
    with pytest.raises(RecordError, match=r"'bing', not one of .* with --role bing=ROLE"):
        read({"role": "bing", "content": "x"})
    with pytest.raises(RecordError, match=r"is from 'bing'"):
        read_record({"conversations": [{"from": "bing", "value": "x"}]})


def test_standard_roles_can_be_renamed_too():
    names = RecordNames(roles={"system": "user"})
    assert read({"role": "system", "content": "x"}, ANSWERED, names=names)[0]["role"] == "user"


def test_messages_in_sharegpts_form_are_read_wherever_they_stand():
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    assert read(*turns) == [ASKED, ANSWERED]
    both = [{**turn, **old} for turn, old in zip(turns, (ASKED, ANSWERED), strict=True)]
    filled = [{**turn, "role": None, "content": None} for turn in turns]
    assert read(*filled) == [ASKED, ANSWERED]
    assert [m["content"] for m in read_record({"conversations": both}).messages] == [
        *("Why?", "Because.")
    ]
    assert read_record({"conversations": both}).notes == ()
    turn = {"from": "gpt", "value": "Because."}
    for other, what in (({"role": "user"}, "roles"), ({"content": "So."}, "texts")):
        with pytest.raises(RecordError, match=rf"conversations\[0\] has different {what} in"):
            read_record({"conversations": [{**turn, **other}]})
    with pytest.raises(RecordError, match=r"conversations\[0\] has role 'bing'"):
        read_record({"conversations": [{**turn, "role": "bing"}]})


def test_fields_of_messages_are_mapped_by_the_option():
    names = RecordNames({"sender": "role", "text": "content", "thoughts": "reasoning_content"})
    message = {"sender": "assistant", "text": "Because.", "thoughts": "Hm."}
    asked = {"sender": "user", "text": "Why?"}
    assert read(asked, message, names=names) == [ASKED, {**ANSWERED, "reasoning_content": "Hm."}]


def test_calls_in_the_content_of_a_message_are_tool_calls_those_in_a_row_of_one_message():
    one, two = ({"name": name, "arguments": {"x": 1}} for name in "fg")
    calls = [{"type": "function", "function": call} for call in (one, two)]
    expected = [ASKED, {**CALLED, "tool_calls": calls}, ANSWERED]
    for role in ("tool_call", "function_call"):
        together = {"role": role, "content": json.dumps([one, two])}
        assert read(ASKED, together, ANSWERED) == expected
        apart = [{"role": role, "content": json.dumps(call)} for call in (one, two)]
        assert read(ASKED, *apart, ANSWERED) == expected
    with pytest.raises(RecordError, match=r"messages\[0\].content is a text, not a list"):
        read({"role": "tool_call", "content": "f(1)"})
    for nothing in (None, "", "[]", []):
        with pytest.raises(RecordError, match=r"messages\[0\] has no tool call"):
            read({"role": "tool_call", "content": nothing})
    assert read(ASKED, {"role": "tool_call", "tool_calls": [CALL]}) == [ASKED, CALLED]
    with pytest.raises(RecordError, match="tool calls in its content and beside it"):
        read({"role": "tool_call", "content": json.dumps(one), "tool_calls": [CALL]})


def test_openais_older_function_calls_are_tool_calls():
    call = {"name": "f", "arguments": '{"x": 1}'}
    for older in (call, json.dumps(call)):
        message = {"role": "assistant", "content": None, "function_call": older}
        assert read(ASKED, message) == [ASKED, CALLED]
    with pytest.raises(RecordError, match="has both tool_calls and function_call"):
        read({**CALLED, "function_call": call})


@pytest.mark.parametrize("name", ["images", "image", "audio", "videos"])
def test_media_beside_a_message_are_refused(name):
    with pytest.raises(RecordError, match=rf"messages\[0\] has {name} beside its text"):
        read({**ASKED, name: ["x.png"]}, ANSWERED)
    assert read({**ASKED, name: []}, ANSWERED)[0]["content"] == "Why?"


def test_a_message_with_a_thought_or_calls_alone_needs_no_content():
    thought = {"role": "assistant", "content": None, "reasoning_content": "Hm."}
    assert read(ASKED, thought)[1] == {**thought, "content": ""}
    assert read(ASKED, {"role": "assistant", "tool_calls": [CALL]}) == [ASKED, CALLED]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_content_of_null_is_told_as_null(role):
    messages = [{"role": role, "content": None}, {"role": "user", "content": "Hi"}]
    with pytest.raises(RecordError, match=r"messages\[0\] has null as its content"):
        read_record({"messages": messages})
