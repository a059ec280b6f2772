# SPDX-License-Identifier: Apache-2.0
"""Reads records of alternating texts of a user and an assistant."""

from __future__ import annotations

from megatron_packing.counted import counted
from megatron_packing.records.record import RecordError, wrong_type
from megatron_packing.schemas.messages import ReadMessages
from megatron_packing.schemas.record_fields import RecordFields
from megatron_packing.schemas.text_messages import assistant_message, user_message


def read_turns(fields: RecordFields) -> ReadMessages:
    """Read ``turns``, a list of texts that begins with the user's.

    Raises:
        RecordError: An item is not a text, or the last one is not an answer.
    """
    turns = fields.list_of("turns")
    if len(turns) % 2:
        raise RecordError(
            "no answer",
            f"'turns' has {counted(len(turns), 'text')}, so the last question has no answer",
        )
    read = ReadMessages()
    for number, text in enumerate(turns):
        if not isinstance(text, str):
            raise wrong_type(f"turns[{number}]", text, "a text")
        read.add(assistant_message(text) if number % 2 else user_message(text))
    return read
