# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import read_record

ANSWERED = {"role": "assistant", "content": "Because."}


def read(content, **rest):
    messages = [{"role": "assistant", "content": content, **rest}]
    return read_record({"messages": messages}).messages[0]


@pytest.mark.parametrize(
    "content",
    [
        "Be cause.",
        [{"type": "text", "text": "Be "}, {"type": "text", "text": "cause."}],
        [{"type": "text", "text": "Be cause.", "image": None, "image_url": {"url": None}}],
        [{"type": "text", "text": "Be cause.", "images": []}],
        ["Be ", "cause."],
        [{"text": "Be "}, "cause."],
        [{"type": None, "text": "Be cause."}],
        [{"type": "input_text", "text": "Be "}, {"type": "output_text", "text": "cause."}],
        [{"type": "text", "text": {"value": "Be cause.", "annotations": []}}],
        {"type": "text", "text": "Be cause."},
    ],
)
def test_parts_of_text_become_one_text(content):
    assert read(content)["content"] == "Be cause."


@pytest.mark.parametrize(
    "thought",
    [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "thinking", "thinking": "Hm.", "signature": "x", "text": None},
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}], "closed": True},
        {"type": "reasoning", "text": "Hm."},
        {"thinking": "Hm."},
    ],
)
def test_a_part_that_thinks_is_the_thought_of_its_message(thought):
    message = read([thought, {"type": "text", "text": "Because."}])
    assert message == {**ANSWERED, "reasoning_content": "Hm."}


@pytest.mark.parametrize("name", ["thinking", "reasoning_content", "reasoning"])
def test_a_thought_keeps_its_name_and_a_null_is_none(name):
    assert read("Because.", **{name: "Hm."}) == {**ANSWERED, name: "Hm."}
    assert read("Because.", **{name: None}) == ANSWERED
    with pytest.raises(RecordError, match=rf"messages\[0\].{name} is a list, not a text"):
        read("Because.", **{name: ["Hm."]})


def test_two_thoughts_must_be_one():
    same = read("Because.", thinking="Hm.", reasoning="Hm.")
    assert same == {**ANSWERED, "thinking": "Hm.", "reasoning": "Hm."}
    with pytest.raises(RecordError, match="different thoughts in reasoning_content and thinking"):
        read("Because.", thinking="Hm.", reasoning_content="Ah.")
    with pytest.raises(RecordError, match="different thoughts in reasoning and its content's"):
        read([{"thinking": "Ah."}, "Because."], reasoning="Hm.")


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"type": "image_url", "image_url": {"url": "x.png"}}, "of type 'image_url'"),
        ({"type": "image", "text": None}, "of type 'image'"),
        ({"image": "x.png"}, "of type 'image'"),
        ({"type": "text", "text": "Look", "image": "x.png"}, "of type 'image'"),
        ({"type": None, "image_url": {"url": "x.png"}, "text": None}, "of type 'image_url'"),
        ({"type": "input_audio", "input_audio": {"data": "x"}}, "of type 'input_audio'"),
        ({"type": "tool_use", "id": "a", "input": {}}, "of type 'tool_use'"),
        ({"type": ["text"], "text": "x"}, r"of type '\['text'\]'"),
        ({"temperature": 3}, "an object with the fields temperature"),
        (3, "a number"),
        (None, "null"),
    ],
)
def test_what_is_no_text_is_refused_and_named(part, found):
    with pytest.raises(RecordError, match=rf"content\[1\] is {found}; only text can be") as caught:
        read(["Because.", part])
    assert caught.value.kind == "content is not text"


@pytest.mark.parametrize("content", [3, True])
def test_content_that_is_neither_text_nor_parts_is_refused(content):
    with pytest.raises(RecordError, match=r"messages\[0\].content is a (number|boolean), not"):
        read(content)
