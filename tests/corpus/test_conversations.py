from __future__ import annotations

import pytest

from megatron_packing.corpus.conversations import RecordError, read_conversation

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
        ({"prompt": "Why?", "completion": "Because."}, [ASKED, ANSWERED]),
        ({"prompt": [SYSTEM, ASKED], "completion": [ANSWERED]}, [SYSTEM, ASKED, ANSWERED]),
    ],
)
def test_each_schema_becomes_messages(record, expected):
    assert read_conversation(record).messages == expected


def test_tools_and_tool_calls_are_kept():
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}
    conversation = read_conversation({"messages": [ASKED, call], "tools": [{"name": "f"}]})
    assert conversation.tools == [{"name": "f"}]
    assert conversation.messages[1] == {**call, "content": ""}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "it is a list, not an object"),
        (None, "it is a null, not an object"),
        ({"text": "hello", "id": 1}, "its schema is not known: it has the fields id, text"),
        ({"messages": "hello"}, "'messages' is a str, not a list"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": ["hello"]}, r"messages\[0\] is a str"),
        ({"messages": [{"role": "bot", "content": "x"}]}, r"messages\[0\] has role 'bot'"),
        ({"messages": [ASKED, {"role": "assistant"}]}, r"messages\[1\].content is a null"),
        ({"messages": [ASKED]}, "no assistant message"),
        ({"messages": [ASKED, ANSWERED], "tools": {}}, "'tools' is a dict"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "is from 'alien'"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, r"conversations\[0\].value is a int"),
        ({"instruction": "Why?"}, "'output' is a null"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, r"history\[0\] is not a pair"),
        ({"prompt": "Why?", "completion": 1}, "'completion' is a int"),
    ],
)
def test_a_bad_record_is_refused_with_its_reason(record, reason):
    with pytest.raises(RecordError, match=reason):
        read_conversation(record)
