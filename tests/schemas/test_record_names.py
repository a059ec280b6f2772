# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import read_record
from megatron_packing.schemas.record_names import RecordNames


def test_fields_are_read_under_their_standard_names():
    names = RecordNames({"body": "text", "meta": "ignore"})
    assert read_record({"body": "Once", "meta": 1}, names=names) == read_record({"text": "Once"})


def test_names_may_be_swapped():
    names = RecordNames({"prompt": "completion", "completion": "prompt"})
    messages = read_record({"prompt": "2", "completion": "1+1?"}, names=names).messages
    assert [message["content"] for message in messages] == ["1+1?", "2"]


def test_a_field_given_twice_is_refused():
    names = RecordNames({"body": "text"})
    with pytest.raises(RecordError, match="it has two fields that --field maps to 'text'"):
        read_record({"text": "Once", "body": "Twice"}, names=names)
    assert read_record({"text": None, "body": "Twice"}, names=names).text == "Twice"


def test_a_message_is_renamed_only_by_names_of_messages():
    names = RecordNames({"content": "text"})
    assert read_record({"content": "Once"}, names=names).text == "Once"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert read_record({"messages": messages}, names=names).messages == messages


def test_names_that_are_not_standard_are_refused():
    with pytest.raises(
        InputError, match=r"--field a=b names no standard field; use one of messages,"
    ):
        RecordNames({"a": "b"})
    with pytest.raises(InputError, match=r"--role '\\udcff'=user has a name that is not UTF-8"):
        RecordNames(roles={"\udcff": "user"})
    with pytest.raises(
        InputError, match=r"--role a=human names no standard role; use one of system"
    ):
        RecordNames(roles={"a": "human"})
