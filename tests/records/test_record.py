# SPDX-License-Identifier: Apache-2.0
"""JSON texts of records."""

from __future__ import annotations

import pytest

from megatron_packing.records.record import RecordError, parse_json


def test_names_of_different_objects_may_be_equal():
    text = b'{"a": {"b": 1}, "b": [{"a": 2}, {"a": 3}]}'
    assert parse_json(text) == {"a": {"b": 1}, "b": [{"a": 2}, {"a": 3}]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"content": "Hi", "content": "Hi again"}', "it has content twice in one object"),
        (b'[{"a": {"\\u0062": 1, "b": 1}}]', "it has b twice in one object"),
        (b'{"a": ', "it is not JSON"),
        (b'{"a": "\xff"}', "it is not UTF-8"),
        (b"[" * 100_000, "its JSON is nested too deeply"),
        (b'{"a": ' * 100_000, "its JSON is nested too deeply"),
    ],
)
def test_what_cannot_be_read_whole_is_refused(text, reason):
    with pytest.raises(RecordError, match=reason):
        parse_json(text)
