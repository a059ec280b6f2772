# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import find_schema, read_record
from megatron_packing.schemas.record_names import RecordNames

ASKED = {"role": "user", "content": "1+1?"}
ANSWERED = {"role": "assistant", "content": "2"}
CONVERSATIONS = [
    {"messages": [ASKED, ANSWERED]},
    {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]},
    {"instruction": "1+1?", "output": "2"},
    {"prompt": "1+1?", "completion": "2"},
    {"prompt": [ASKED], "completion": [ANSWERED]},
]


@pytest.mark.parametrize("record", CONVERSATIONS)
@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_a_bad_answer_is_not_trained(record, name):
    for bad in (False, 0, "false"):
        with pytest.raises(RecordError, match=rf"'{name}' is .*preference data \(KTO\)") as caught:
            read_record({**record, name: bad})
        assert caught.value.kind == "preference data"
        assert f"--field {name}=ignore" in str(caught.value)
    note = f"fields read as a label of preference data (KTO) that rates the answer as good: {name}"
    usual = read_record(record)
    for good in (True, 1):
        assert read_record({**record, name: good}) == replace(usual, notes=(*usual.notes, note))
    assert read_record({**record, name: None}) == usual
    ignored = read_record({**record, name: 0}, names=RecordNames({name: "ignore"}))
    assert ignored == read_record(record)


def test_a_label_that_judges_nothing_is_noted():
    for record in ({**CONVERSATIONS[0], "label": "physics"}, {"text": "A film.", "label": 0}):
        assert read_record(record).notes == ("record fields not read: label",)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "1+1?", "chosen": "2", "rejected": "3"},
        {"chosen": [ASKED, ANSWERED], "rejected": [ASKED]},
        *({**record, "rejected_response": "3"} for record in CONVERSATIONS),
    ],
)
def test_pairs_of_answers_are_told_what_they_are(record):
    with pytest.raises(RecordError, match=r"it is preference data .*=ignore") as caught:
        read_record(record)
    assert caught.value.kind == "preference data"


@pytest.mark.parametrize("record", [*CONVERSATIONS, {"text": "Look."}])
@pytest.mark.parametrize(
    "media", [{"images": ["x.png"]}, {"image": "x.png"}, {"audio": {"path": "x"}}, {"videos": [1]}]
)
def test_images_beside_a_text_are_refused(record, media):
    (name,) = media
    with pytest.raises(
        RecordError, match=f"it has {name} beside its text, but only text .*=ignore"
    ):
        read_record({**record, **media})
    names = RecordNames({name: "ignore"})
    assert read_record({**record, **media}, names=names) == read_record(record)


@pytest.mark.parametrize("empty", [None, [], "", [None], {"bytes": None, "path": None}])
def test_images_that_are_not_there_are_no_images(empty):
    assert read_record({**CONVERSATIONS[0], "images": empty}).notes == ()


@pytest.mark.parametrize(
    "record",
    [
        {"message_id": "m", "parent_id": None, "text": "Why?", "role": "prompter", "lang": "en"},
        {"message_id": "n", "parent_id": "m", "text": "So.", "role": None},
        {"text": "So.", "role": "assistant"},
    ],
)
def test_a_message_of_a_tree_is_no_plain_text(record):
    with pytest.raises(RecordError, match="single message of a conversation, not a plain text"):
        find_schema(record)
    assert read_record(record, "text").text == record["text"]


def test_a_message_alone_is_told_what_it_is():
    with pytest.raises(RecordError, match="it is a single message, not a conversation"):
        find_schema(ASKED)
