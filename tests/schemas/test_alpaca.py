# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.schemas.conversations import read_record
from megatron_packing.schemas.record_names import RecordNames

ASKED = {"role": "user", "content": "1+1?"}
ANSWERED = {"role": "assistant", "content": "2"}


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


def test_a_thought_beside_an_answer_is_its_thought():
    record = {"prompt": "1+1?", "completion": "2", "reasoning_content": "Easy."}
    assert read_record(record).messages[1] == {**ANSWERED, "reasoning_content": "Easy."}
    mapped = {"instruction": "1+1?", "output": "2", "cot": "Easy."}
    names = RecordNames({"cot": "reasoning_content"})
    assert read_record(mapped, names=names).messages == read_record(record).messages
