# SPDX-License-Identifier: Apache-2.0
"""Reads records of an instruction and a response, as Alpaca and Dolly have them."""

from __future__ import annotations

from megatron_packing.records.record import RecordError, wrong_type
from megatron_packing.schemas.messages import ReadMessages
from megatron_packing.schemas.record_fields import RecordFields, from_json_text
from megatron_packing.schemas.text_messages import assistant_message, read_answer, user_message


def read_alpaca(fields: RecordFields) -> ReadMessages:
    """Read Alpaca's ``instruction``, ``input`` and ``output``, or Dolly's other names.

    Dolly has ``context`` for ``input``, and ``response`` for ``output``. ``history`` is a list of
    earlier pairs of a question and an answer.

    Raises:
        RecordError: A field is missing or has the wrong type.
    """
    read = ReadMessages()
    history = from_json_text(fields.get("history"), "'history'", "[")
    if history is not None and history != "" and not isinstance(history, list):
        raise wrong_type("'history'", history, "a list")
    for number, turn in enumerate(history or []):
        pair = isinstance(turn, list | tuple) and len(turn) == 2
        if not pair or not all(isinstance(text, str) for text in turn):
            raise RecordError("wrong type", f"history[{number}] is not a pair of texts")
        read.add(user_message(turn[0]))
        read.add(assistant_message(turn[1]))
    asked = [fields.text("instruction")]
    asked += [fields.text(name) for name in ("input", "context") if name in fields]
    answers = [name for name in ("output", "response") if name in fields]
    if not answers:
        raise RecordError(
            "field missing",
            "it has neither 'output' nor 'response'; if another field holds the answer, add "
            "--field NAME=output",
        )
    read.add(user_message("\n".join(text for text in asked if text)))
    read.add(read_answer(fields, answers[0]))
    return read
