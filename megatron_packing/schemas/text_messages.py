# SPDX-License-Identifier: Apache-2.0
"""Makes messages from texts that a record has in fields of their own."""

from __future__ import annotations

from megatron_packing.schemas.message_content import THOUGHTS
from megatron_packing.schemas.messages import Message
from megatron_packing.schemas.record_fields import RecordFields


def user_message(text: str) -> Message:
    """Return a user's message."""
    return {"role": "user", "content": text}


def assistant_message(text: str) -> Message:
    """Return an assistant's message."""
    return {"role": "assistant", "content": text}


def read_answer(fields: RecordFields, name: str) -> Message:
    """Read an answer and the record's ``reasoning_content``, if it has that.

    Raises:
        RecordError: A field is missing or is not a text.
    """
    message = assistant_message(fields.text(name))
    if THOUGHTS[0] in fields:
        message[THOUGHTS[0]] = fields.text(THOUGHTS[0])
    return message
