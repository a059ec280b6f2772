# SPDX-License-Identifier: Apache-2.0
"""Reads records of a prompt and a completion."""

from __future__ import annotations

from megatron_packing.schemas.messages import ReadMessages, read_messages
from megatron_packing.schemas.record_fields import RecordFields, missing
from megatron_packing.schemas.text_messages import read_answer, user_message


def read_prompt_completion(fields: RecordFields) -> ReadMessages:
    """Read ``prompt`` and ``completion``, each a text or a list of messages.

    Assistant messages in a prompt's list are part of the question, so they are not trained.

    Raises:
        RecordError: A field is missing or has the wrong type.
    """
    read = _texts_or_messages(fields, "prompt")
    if isinstance(fields.peek("prompt"), list):
        read.trained = [False] * len(read.messages)
    completion = _texts_or_messages(fields, "completion")
    read.messages += completion.messages
    read.trained += completion.trained
    read.tools += completion.tools
    return read


def _texts_or_messages(fields: RecordFields, name: str) -> ReadMessages:
    if name not in fields:
        raise missing(name)
    if isinstance(fields.peek(name), list):
        return read_messages(fields.list_of(name), name, fields)
    read = ReadMessages()
    is_prompt = name == "prompt"
    read.add(user_message(fields.text(name)) if is_prompt else read_answer(fields, name))
    return read
