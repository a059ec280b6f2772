# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import read_record
from megatron_packing.schemas.record_names import RecordNames
from megatron_packing.schemas.training_marks import unknown_mark

ASKED = {"role": "user", "content": "Why?"}
ANSWERED = {"role": "assistant", "content": "Because."}
MARKS = [
    *("train", "training", "trainable", "weight"),
    *("loss", "loss_mask", "loss_scale", "loss_weight"),
]


def read(message, **options):
    return read_record({"messages": [ASKED, ANSWERED, ASKED, message]}, **options)


@pytest.mark.parametrize("name", MARKS)
@pytest.mark.parametrize("no", [False, 0, 0.0])
def test_a_message_marked_as_not_trained_is_not_and_the_template_does_not_see_the_mark(name, no):
    unmarked, marked = read(ANSWERED), read({**ANSWERED, name: no})
    assert marked.trained == (True, True, True, False)
    assert marked.messages == unmarked.messages
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So.", name: no}]
    assert read_record({"conversations": turns}).trained == (True, False)
    record = {"prompt": [ASKED], "completion": [{**ANSWERED, name: no}]}
    assert read_record(record).trained == (False, False)


@pytest.mark.parametrize("mark", [{name: 1} for name in MARKS] + [{"masked": False}])
def test_a_message_marked_as_trained_is(mark):
    assert read({**ANSWERED, **mark}) == read(ANSWERED)


def test_masked_is_the_opposite_of_trained():
    assert read({**ANSWERED, "masked": True}).trained[-1] is False


def test_one_mark_that_says_no_is_enough():
    assert read({**ANSWERED, "weight": 1, "train": False, "loss": True}).trained[-1] is False


@pytest.mark.parametrize("name", [*MARKS, "masked"])
@pytest.mark.parametrize("value", [0.5, 2, -1, "0", "false", [0, 1], {}, float("nan"), 10**400])
def test_a_mark_that_is_neither_yes_nor_no_is_refused_and_the_option_named(name, value):
    with pytest.raises(
        RecordError, match=rf"messages\[3\].{name} is .* must be 0 or 1.*={'ignore'}"
    ):
        read({**ANSWERED, name: value})
    ignored = read({**ANSWERED, name: value}, names=RecordNames({name: "ignore"}))
    assert ignored == read(ANSWERED)


@pytest.mark.parametrize(
    "name",
    [
        *("mask", "is_masked", "lossMask", "do_train", "no-loss", "train_detail", "skip"),
        *("sample_weight", "LOSS", "ignore_in_training", "compute_grad", "Learnable"),
    ],
)
def test_a_field_that_may_be_a_mark_is_never_passed_over(name):
    with pytest.raises(RecordError, match=r"which may say whether it is trained") as caught:
        read({**ANSWERED, name: 0})
    for meaning in ("loss_mask", "masked", "ignore"):
        assert f"--field {name}={meaning}" in str(caught.value)
    trained = [
        read({**ANSWERED, name: 0}, names=RecordNames({name: meaning})).trained[-1]
        for meaning in ("loss_mask", "masked", "ignore")
    ]
    assert trained == [False, True, True]


@pytest.mark.parametrize("name", ["brain", "message_id", "timestamp", "gloss", "unmasking2"])
def test_other_unknown_fields_go_to_the_template_and_are_noted(name):
    conversation = read({**ANSWERED, name: 0})
    assert conversation.messages[-1] == {**ANSWERED, name: 0}
    assert conversation.notes == (f"unknown message fields, passed to the chat template: {name}",)


def test_known_fields_are_not_noted():
    message = {**ANSWERED, "name": "f", "reasoning_content": "Hm."}
    tool = {"role": "tool", "content": "1", "tool_call_id": "a"}
    assert read_record({"messages": [ASKED, tool, message]}).notes == ()


def test_a_question_marked_as_trained_is_noted():
    record = {"messages": [{**ASKED, "train": True}, ANSWERED]}
    assert read_record(record).notes == (
        "messages marked as trained that are not answers (--loss-on decides): user",
    )


CONVERSATION = {"messages": [ASKED, ANSWERED]}


@pytest.mark.parametrize(
    "record",
    [CONVERSATION, {"text": "Once"}, {"instruction": "Why?", "output": "Because."}],
)
@pytest.mark.parametrize("mark", [{name: 0} for name in MARKS] + [{"masked": True}])
def test_a_record_marked_as_not_trained_is_refused(record, mark):
    with pytest.raises(RecordError, match="its mark says that it is not trained"):
        read_record({**record, **mark})


@pytest.mark.parametrize("value", [0.3, 2.5, "high"])
def test_an_unclear_mark_of_a_record_is_refused_and_the_option_named(value):
    with pytest.raises(RecordError, match=r"its field 'weight' is .*--field weight=ignore"):
        read_record({**CONVERSATION, "weight": value})
    names = RecordNames({"weight": "ignore"})
    assert read_record({**CONVERSATION, "weight": value}, names=names).trained == (True, True)


def test_nemos_mask_names_the_role_that_is_not_trained():
    assert read_record({**CONVERSATION, "mask": "User"}) == read_record(CONVERSATION)
    with pytest.raises(RecordError, match=r"its field 'mask' is 1.*--field mask=loss_mask"):
        read_record({**CONVERSATION, "mask": 1})
    for mask in ("Assistant", "gpt", [0, 1]):  # read as loss_mask they would be refused again
        with pytest.raises(RecordError, match=r"its field 'mask' is .*--field mask=ignore"):
            read_record({**CONVERSATION, "mask": mask})


@pytest.mark.parametrize("value", [[0, 1], "no", {"a": 1}, 0.5])
def test_what_cannot_be_a_mark_is_not_advised_to_be_read_as_one(value):
    error = unknown_mark("train_detail", value, "messages[0]")
    assert "--field train_detail=ignore" in error.reason
    assert "loss_mask" not in error.reason
    assert "masked" not in error.reason
