from __future__ import annotations

import pytest

from megatron_packing.prepare.conversations import PlainText, find_schema, read_record
from megatron_packing.prepare.records import RecordError

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


def test_parts_of_text_become_one_text():
    parts = [{"type": "text", "text": "Be"}, {"type": "text", "text": "cause."}]
    record = {"messages": [ASKED, {"role": "assistant", "content": parts}]}
    assert read_record(record).messages == [ASKED, ANSWERED]


def test_arguments_of_tool_calls_become_objects():
    function = {"name": "f", "arguments": '{"x": [1, "\u00e9"]}'}
    call = {"id": "abc", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = {"role": "tool", "tool_call_id": "abc", "content": "2"}
    tools = [{"type": "function", "function": {"name": "f"}}]
    conversation = read_record({"messages": [ASKED, message, answer, ANSWERED], "tools": tools})
    assert conversation.tools == tools
    assert conversation.messages[1]["content"] == ""
    (read,) = conversation.messages[1]["tool_calls"]
    assert read["id"] == "abc"
    assert read["function"] == {"name": "f", "arguments": {"x": [1, "\u00e9"]}}
    assert conversation.messages[2] == answer


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


@pytest.mark.parametrize("flag", [{"train": False}, {"weight": 0}, {"weight": 0.0}])
def test_flags_of_messages_are_read_and_not_shown_to_the_template(flag):
    openai = {"messages": [ASKED, {**ANSWERED, **flag}, ASKED, {**ANSWERED, "train": True}]}
    assert read_record(openai).trained == (True, False, True, True)
    assert read_record(openai).messages == [ASKED, ANSWERED, ASKED, ANSWERED]
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because.", **flag}]
    assert read_record({"conversations": turns}).trained == (True, False)


def test_answers_within_a_prompt_are_not_trained():
    record = {"prompt": [ASKED, ANSWERED, ASKED], "completion": [ANSWERED]}
    assert read_record(record).trained == (False, False, False, True)


def test_openais_older_function_calls_are_tool_calls():
    message = {"role": "assistant", "content": None}
    call = {"name": "f", "arguments": '{"x": 1}'}
    old = read_record({"messages": [ASKED, {**message, "function_call": call}]})
    calls = [{"type": "function", "function": call}]
    new = read_record({"messages": [ASKED, {**message, "tool_calls": calls}]})
    assert old == new


def test_a_text_is_a_text():
    assert read_record({"text": "Once upon a time", "id": 3}) == PlainText("Once upon a time")


def test_a_schema_is_found_by_fields_or_named():
    both = {"messages": [ASKED, ANSWERED], "text": "Once"}
    assert find_schema(both) == "openai"
    assert read_record(both, "text") == PlainText("Once")
    with pytest.raises(RecordError, match="it has no field 'conversations'"):
        read_record(both, "sharegpt")


CALL = {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("record", "kind", "reason"),
    [
        ([], "not an object", "it is a list, not an object"),
        (None, "not an object", "it is a null, not an object"),
        ({"q": 1, "id": 1}, "unknown schema", "its schema is not known: it has the fields id, q"),
        (
            {"prompt": "Why?"},
            "unknown schema",
            "it has the fields prompt, where one would have .* or prompt with completion",
        ),
        ({"messages": "hello"}, "wrong type", "'messages' is a text, not a list"),
        ({"messages": []}, "no messages", "'messages' is empty"),
        ({"messages": ["hello"]}, "wrong type", r"messages\[0\] is a text"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "unknown role", "has role 'bot'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "unknown role", "has role"),
        ({"messages": [ASKED, {"role": "assistant"}]}, "wrong type", "content is a null"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "content is not text",
            r"messages\[0\].content\[0\] is of type 'image_url'",
        ),
        ({"messages": [{**ASKED, "weight": 0.5}]}, "wrong type", "weight is 0.5, not 0 or 1"),
        ({"messages": [{**ASKED, "train": "no"}]}, "wrong type", "train is 'no', not true or"),
        ({"messages": [ASKED, ANSWERED], "tools": {}}, "wrong type", "'tools' is a object"),
        ({"messages": [{**CALL, "tool_calls": 1}]}, "wrong type", "tool_calls is a number"),
        ({"messages": [{**CALL, "tool_calls": [{}]}]}, "wrong tool call", "names no function"),
        (
            {"messages": [{**CALL, "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            "wrong tool call",
            "arguments is not JSON",
        ),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "unknown role", "is from 'alien'"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "wrong type", "value is a number"),
        ({"instruction": "Why?"}, "wrong type", "it has no field 'response'"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "wrong type", "not a pair"),
        ({"instruction": "a", "output": "b", "history": 3}, "wrong type", "'history' is a number"),
        ({"prompt": "Why?", "completion": 1}, "wrong type", "'completion' is a number"),
        ({"text": ""}, "empty text", "'text' is empty"),
    ],
)
def test_a_bad_record_is_refused_with_its_reason(record, kind, reason):
    with pytest.raises(RecordError, match=reason) as caught:
        read_record(record)
    assert caught.value.kind == kind
