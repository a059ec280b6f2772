# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import PlainText, find_schema, read_record

ASKED = {"role": "user", "content": "Why?"}
ANSWERED = {"role": "assistant", "content": "Because."}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"id": 1, "messages": [SYSTEM, ASKED, ANSWERED]}, [SYSTEM, ASKED, ANSWERED]),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Why?"},
                    {"from": "gpt", "value": "Because."},
                ]
            },
            [ASKED, ANSWERED],
        ),
        (
            {
                "system": "Be brief.",
                "conversations": [
                    {"from": "user", "value": "Why?"},
                    {"role": "assistant", "content": "Because."},
                ],
            },
            [SYSTEM, ASKED, ANSWERED],
        ),
        ({"instruction": "Why?", "input": "", "output": "Because."}, [ASKED, ANSWERED]),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["Hi", "Ho"]]},
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Ho"},
                {"role": "user", "content": "Add.\n1 2"},
                {"role": "assistant", "content": "3"},
            ],
        ),
        ({"instruction": "Why?", "context": "", "response": "Because."}, [ASKED, ANSWERED]),
        ({"prompt": "Why?", "completion": "Because."}, [ASKED, ANSWERED]),
        ({"prompt": [SYSTEM, ASKED], "completion": [ANSWERED]}, [SYSTEM, ASKED, ANSWERED]),
    ],
)
def test_each_schema_becomes_messages(record, expected):
    assert read_record(record).messages == expected


def test_llama_factorys_calls_and_observations_become_openais():
    record = {
        "tools": '[{"name": "f"}]',
        "conversations": [
            {"from": "human", "value": "Why?"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "Because."},
        ],
    }
    conversation = read_record(record)
    assert [message["role"] for message in conversation.messages] == [
        *("user", "assistant", "tool", "assistant")
    ]
    (call,) = conversation.messages[1]["tool_calls"]
    assert call == {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert conversation.tools == [{"name": "f"}]


def test_answers_within_a_prompt_are_not_trained():
    record = {"prompt": [ASKED, ANSWERED, ASKED], "completion": [ANSWERED]}
    assert read_record(record).trained == (False, False, False, True)


def test_a_text_is_a_text():
    assert read_record({"text": "Once upon a time"}) == PlainText("Once upon a time")


def test_a_schema_is_found_by_fields_or_named():
    both = {"messages": [ASKED, ANSWERED], "text": "Once"}
    assert find_schema(both) == "openai"
    assert read_record(both, "text") == PlainText("Once", ("record fields not read: messages",))
    with pytest.raises(RecordError, match="it has no field 'conversations'"):
        read_record(both, "sharegpt")


@pytest.mark.parametrize(
    ("record", "schema"),
    [
        ({"messages": None, "conversations": [{"from": "human", "value": "Why?"}]}, "sharegpt"),
        ({"messages": None, "text": "Once", "conversations": None}, "text"),
        ({"instruction": None, "prompt": "Why?", "completion": "So."}, "prompt-completion"),
    ],
)
def test_a_schema_is_found_by_the_field_that_is_not_null(record, schema):
    assert find_schema(record) == schema


def test_null_fields_of_other_rows_are_absent():
    message = {**ANSWERED, "from": None, "weight": None, "thinking": None, "tool_calls": None}
    empty = {"system": None, "tools": None, "instruction": None, "images": None}
    conversation = read_record({"messages": [ASKED, message], **empty})
    assert conversation == read_record({"messages": [ASKED, ANSWERED]})


def test_lists_may_come_as_json_text():
    messages = [ASKED, ANSWERED]
    expected = read_record({"messages": messages})
    assert read_record({"messages": json.dumps(messages)}) == expected
    assert read_record({"messages": [json.dumps(message) for message in messages]}) == expected
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    assert read_record({"conversations": json.dumps(turns)}) == expected
    flat = {"instruction": "Why?", "output": "Because.", "history": "[]"}
    assert read_record(flat) == expected
    with pytest.raises(RecordError, match="'messages' is JSON text that cannot be read: not JSON"):
        read_record({"messages": '[{"role": "user"'})


@pytest.mark.parametrize(
    "rest",
    [
        {"messages": [ASKED, ANSWERED]},
        {"instruction": "Why?", "output": "Because."},
        {"prompt": "Why?", "completion": "Because."},
        {"prompt": [ASKED], "completion": "Because."},
    ],
)
@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_a_system_message_beside_the_turns_comes_first(rest, name):
    conversation = read_record({name: "Be brief.", **rest})
    assert conversation.messages == [SYSTEM, ASKED, ANSWERED]
    assert len(conversation.trained) == 3
    assert conversation.notes == ()


def test_a_system_message_given_twice_is_one():
    conversation = read_record({"system": "Be brief.", "messages": [SYSTEM, ASKED, ANSWERED]})
    assert conversation.messages == [SYSTEM, ASKED, ANSWERED]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        (
            {"chat_template_kwargs": {"enable_thinking": False, "x": None}},
            {"enable_thinking": False},
        ),
        ({"chat_template_kwargs": '{"a": [1]}', "thinking": True}, {"a": [1], "thinking": True}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"reasoning_effort": "high", "chat_template_kwargs": {}}, {"reasoning_effort": "high"}),
        ({}, {}),
    ],
)
@pytest.mark.parametrize(
    "rest", [{"messages": [ASKED, ANSWERED]}, {"instruction": "Why?", "output": "Because."}]
)
def test_what_a_record_sets_for_the_template_is_kept(rest, given, arguments):
    conversation = read_record({**rest, **given})
    assert conversation.template_arguments == arguments
    assert conversation.notes == ()


def test_fields_that_are_not_read_are_noted():
    record = {"messages": [ASKED, ANSWERED], "id": 7, "tool_choice": "auto", "url": "", "meta": {}}
    assert read_record(record).notes == (
        "record fields not read: id",
        "record fields not read: tool_choice",
    )
    text = read_record({"text": "Once", "\ud800\x1b": 1})
    assert text.notes == (r"record fields not read: \ud800\x1b",)


CALL = {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("record", "kind", "reason"),
    [
        ([], "not an object", "it is a list, not an object"),
        (None, "not an object", "it is null, not an object"),
        ({"q": 1, "id": 1}, "unknown schema", "its schema is unknown: it has the fields id, q"),
        (
            {"prompt": "Why?"},
            "unknown schema",
            "it has the fields prompt, but needs .* or prompt with completion",
        ),
        ({"messages": "hello"}, "wrong type", "'messages' is a text, not a list"),
        ({"messages": []}, "no messages", "'messages' is empty"),
        ({"messages": ["hello"]}, "wrong type", r"messages\[0\] is a text"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "unknown role", "has role 'bot'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "unknown role", "has role"),
        (
            {"messages": [ASKED, {"role": "assistant"}]},
            "no content",
            r"messages\[1\] has no content",
        ),
        ({"messages": [{"content": "x", "by": "me"}]}, "no role", "fields are by, content; .*role"),
        ({"messages": [ASKED, ANSWERED], "tools": 3}, "wrong type", "'tools' is a number"),
        ({"messages": [{**CALL, "tool_calls": 1}]}, "wrong type", "tool_calls is a number"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "unknown role", "is from 'alien'"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "wrong type", "value is a number"),
        ({"instruction": "Why?"}, "field missing", "neither 'output' nor 'response'; .*=output"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "wrong type", "not a pair"),
        ({"instruction": "a", "output": "b", "history": 3}, "wrong type", "'history' is a number"),
        ({"prompt": "Why?", "completion": 1}, "wrong type", "'completion' is a number"),
        (
            {"messages": [SYSTEM, ASKED], "system": "Be long."},
            "two system messages",
            "different system messages in system and its first message",
        ),
        (
            {"prompt": "a", "completion": "b", "chat_template_kwargs": [1]},
            "wrong type",
            "'chat_template_kwargs' is a list, not an object",
        ),
        (
            {"prompt": "a", "completion": "b", "chat_template_kwargs": {"tools": []}},
            "wrong template argument",
            "sets tools, which other fields of the record define",
        ),
        (
            {
                "prompt": "a",
                "completion": "b",
                "enable_thinking": True,
                "chat_template_kwargs": {"enable_thinking": False},
            },
            "two template arguments",
            "'enable_thinking' is True, but 'chat_template_kwargs' has False",
        ),
        ({"text": ""}, "empty text", "'text' is empty"),
    ],
)
def test_a_bad_record_is_refused_with_its_reason(record, kind, reason):
    with pytest.raises(RecordError, match=reason) as caught:
        read_record(record)
    assert caught.value.kind == kind
