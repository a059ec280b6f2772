# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import find_schema, read_record

ASKED = {"role": "user", "content": "1+1?"}
ANSWERED = {"role": "assistant", "content": "2"}


def test_texts_are_turns_only_where_that_was_said():
    with pytest.raises(RecordError, match="its schema is unknown"):
        find_schema({"turns": ["1+1?", "2+2?"]})
    turns = {"turns": ["1+1?", "2"]}
    assert read_record(turns, "turns").messages == [ASKED, ANSWERED]
    with pytest.raises(RecordError, match="'turns' has 1 text, so the last question has no answer"):
        read_record({"turns": ["1+1?"]}, "turns")
    with pytest.raises(RecordError, match=r"turns\[1\] is a number"):
        read_record({"turns": ["1+1?", 2]}, "turns")
