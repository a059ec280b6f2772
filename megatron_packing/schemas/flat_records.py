# SPDX-License-Identifier: Apache-2.0
"""Reads records that hold one question and its answer, or texts in turns, into messages."""

from __future__ import annotations

from megatron_packing.records.record import RecordError, type_name
from megatron_packing.schemas.message_content import THOUGHTS
from megatron_packing.schemas.messages import Message, ReadMessages, read_messages
from megatron_packing.schemas.record_fields import RecordFields, from_json_text, missing


def read_alpaca(fields: RecordFields) -> ReadMessages:
    """Alpaca's ``instruction``, ``input`` and ``output``, or Dolly's ``context`` and ``response``.

    Raises:
        RecordError: A field is missing or no text.
    """
    read = ReadMessages()
    history = from_json_text(fields.get("history"), "'history'", "[")
    if history is not None and history != "" and not isinstance(history, list):
        raise RecordError("wrong type", f"'history' is a {type_name(history)}, not a list")
    for number, turn in enumerate(history or []):
        pair = isinstance(turn, list | tuple) and len(turn) == 2
        if not pair or not all(isinstance(text, str) for text in turn):
            raise RecordError("wrong type", f"history[{number}] is not a pair of texts")
        read.add(_user(turn[0]))
        read.add({"role": "assistant", "content": turn[1]})
    asked = [fields.text("instruction")]
    asked += [fields.text(name) for name in ("input", "context") if name in fields]
    answers = [name for name in ("output", "response") if name in fields]
    if not answers:
        raise RecordError(
            "field missing",
            "it has neither 'output' nor 'response'; if another field holds the answer, add "
            "--field NAME=output",
        )
    read.add(_user("\n".join(text for text in asked if text)))
    read.add(_answer(fields, answers[0]))
    return read


def read_prompt_completion(fields: RecordFields) -> ReadMessages:
    """A prompt and its completion, each a text or a list of messages.

    The answers in a list of a prompt's messages are what was asked about, not what is learned.

    Raises:
        RecordError: One of them is missing, or neither.
    """
    read = _texts_or_messages(fields, "prompt")
    if isinstance(fields.peek("prompt"), list):
        read.trained = [False] * len(read.messages)
    completion = _texts_or_messages(fields, "completion")
    read.messages += completion.messages
    read.trained += completion.trained
    read.tools += completion.tools
    return read


def read_turns(fields: RecordFields) -> ReadMessages:
    """Texts of a user and an assistant in turn.

    Raises:
        RecordError: They are no texts, or the last is not an answer.
    """
    turns = fields.list_of("turns")
    if len(turns) % 2:
        raise RecordError(
            "no answer", f"'turns' has {len(turns)} texts, so the last is a question without answer"
        )
    read = ReadMessages()
    for number, text in enumerate(turns):
        if not isinstance(text, str):
            raise RecordError("wrong type", f"turns[{number}] is a {type_name(text)}, not a text")
        read.add({"role": "assistant" if number % 2 else "user", "content": text})
    return read


def _texts_or_messages(fields: RecordFields, name: str) -> ReadMessages:
    if name not in fields:
        raise missing(name)
    if isinstance(fields.peek(name), list):
        return read_messages(fields.list_of(name), name, fields)
    read = ReadMessages()
    read.add(_user(fields.text(name)) if name == "prompt" else _answer(fields, name))
    return read


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _answer(fields: RecordFields, name: str) -> Message:
    """An answer, with the thought that stands beside it."""
    message = {"role": "assistant", "content": fields.text(name)}
    if THOUGHTS[0] in fields:
        message[THOUGHTS[0]] = fields.text(THOUGHTS[0])
    return message
