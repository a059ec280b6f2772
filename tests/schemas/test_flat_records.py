# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import find_schema, read_record
from megatron_packing.schemas.record_fields import RecordNames

ASKED = {"role": "user", "content": "1+1?"}
ANSWERED = {"role": "assistant", "content": "2"}


@pytest.mark.parametrize(
    ("record", "options"),
    [
        ({"input": "1+1?", "output": "2"}, ["input=prompt", "output=completion"]),
        ({"question": "1+1?", "answer": "2"}, ["question=prompt", "answer=completion"]),
        ({"prompt": "1+1?", "response": "2"}, ["response=completion"]),
        ({"query": "1+1?", "response": "2"}, ["query=prompt", "response=completion"]),
        ({"Problem": "1+1?", "Solution": "2"}, ["Problem=prompt", "Solution=completion"]),
        ({"data": ["1+1?", "2"]}, ["data=turns"]),
        ({"chat": [ASKED, ANSWERED]}, ["chat=messages"]),
    ],
)
def test_a_record_with_other_fields_is_refused_with_the_option_that_reads_it(record, options):
    with pytest.raises(RecordError, match="its schema is not known") as caught:
        read_record(record)
    assert str(caught.value).endswith(", add " + " ".join(f"--field {o}" for o in options))
    names = RecordNames(dict(option.split("=") for option in options))
    assert read_record(record, names=names).messages == [ASKED, ANSWERED]
    assert read_record(record, names=names).notes == ()


def test_the_option_is_written_as_a_shell_reads_it():
    with pytest.raises(RecordError, match=r"--field 'my chat=messages'$"):
        read_record({"my chat": [ASKED]})


def test_texts_are_turns_only_where_that_was_said():
    with pytest.raises(RecordError, match="its schema is not known"):
        find_schema({"turns": ["1+1?", "2+2?"]})
    turns = {"turns": ["1+1?", "2"]}
    assert read_record(turns, "turns").messages == [ASKED, ANSWERED]
    with pytest.raises(RecordError, match="'turns' has 1 texts, so the last is a question"):
        read_record({"turns": ["1+1?"]}, "turns")
    with pytest.raises(RecordError, match=r"turns\[1\] is a number"):
        read_record({"turns": ["1+1?", 2]}, "turns")


@pytest.mark.parametrize(
    ("record", "asked"),
    [
        ({"instruction": "", "input": "1+1?", "output": "2"}, "1+1?"),
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, "Add.\n1 1"),
        ({"instruction": "1+1?", "input": None, "output": "2", "history": None}, "1+1?"),
        ({"instruction": "1+1?", "context": "", "response": "2"}, "1+1?"),
    ],
)
def test_what_is_asked_is_what_is_there(record, asked):
    assert read_record(record).messages == [{**ASKED, "content": asked}, ANSWERED]


@pytest.mark.parametrize("prompt", ["1+1?", [ASKED]])
@pytest.mark.parametrize("completion", ["2", [ANSWERED]])
def test_prompts_and_completions_are_texts_or_messages(prompt, completion):
    conversation = read_record({"prompt": prompt, "completion": completion})
    assert conversation.messages == [ASKED, ANSWERED]
    assert conversation.trained == (isinstance(prompt, str), True)


def test_a_thought_beside_an_answer_is_its_thought():
    record = {"prompt": "1+1?", "completion": "2", "reasoning_content": "Easy."}
    assert read_record(record).messages[1] == {**ANSWERED, "reasoning_content": "Easy."}
    mapped = {"instruction": "1+1?", "output": "2", "cot": "Easy."}
    names = RecordNames({"cot": "reasoning_content"})
    assert read_record(mapped, names=names).messages == read_record(record).messages
