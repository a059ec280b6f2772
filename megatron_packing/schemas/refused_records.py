# SPDX-License-Identifier: Apache-2.0
"""Refuses records that look like conversations or texts but are something else."""

from __future__ import annotations

import shlex
from typing import Any

from megatron_packing.records.record import RecordError, is_empty, shown
from megatron_packing.schemas.message_content import MEDIA, check_no_media
from megatron_packing.schemas.record_fields import RecordFields
from megatron_packing.schemas.training_marks import MARKS, take_mark, unknown_mark

_REJECTED = ("rejected", "rejected_response", "rejected_messages", "rejected_completion")
_LABELS = ("kto_tag", "label")
_LOOKED_AT = frozenset([*_REJECTED, *_LABELS, *MEDIA, *MARKS, "mask"])
_OF_A_TREE = ("parent_id", "message_id", "message_tree_id", "role")
# Common names of questions and answers, for the options that errors suggest.
_QUESTIONS = ("question", "query", "problem", "input", "user", "human", "ask", "q")
_ANSWERS = (
    *("answer", "response", "solution", "output", "assistant", "reply", "target", "chosen", "a"),
)


def check_can_be_trained(fields: RecordFields, *, conversation: bool) -> None:
    """Refuse preference data, media, and records that are marked as not trained.

    Args:
        fields: The record. Its training marks are marked as read.
        conversation: Whether its schema has answers, so that a label may rate them.

    Raises:
        RecordError: The record is one of these, or a mark is unclear.
    """
    if fields.has_none_of(_LOOKED_AT):
        return
    check_no_preference(fields)
    if conversation:
        for name in _LABELS:
            label = fields.peek(name)
            if not _is_a_judgement(label):
                continue
            fields.note(
                "fields read as a label of preference data (KTO) that rates the answer as good",
                name,
            )
            if fields.get(name) in (False, 0, "false", "False"):
                raise RecordError(
                    "preference data",
                    f"its field '{name}' is {label!r}, so it is preference data (KTO) with a bad "
                    f"answer, which must not be trained; remove the record, or add "
                    f"--field {name}=ignore if the field means something else",
                )
    check_no_media({name: fields.peek(name) for name in fields}, "it")
    marks = {name: fields.get(name) for name in MARKS if name in fields}
    if take_mark(marks, "it") is False:
        raise RecordError("marked as not trained", "its mark says that it is not trained")
    _check_mask(fields)


def check_no_preference(fields: RecordFields) -> None:
    """Refuse pairs of a good and a bad answer.

    Raises:
        RecordError: The record is such a pair.
    """
    bad = next((name for name in _REJECTED if not is_empty(fields.peek(name))), None)
    if bad is not None:
        raise RecordError(
            "preference data",
            f"it has '{bad}', so it is preference data (a chosen and a rejected answer), which "
            f"is not supported; make messages of the chosen answer, or add "
            f"--field {bad}=ignore if its other fields hold one good conversation",
        )


def check_no_tree(fields: RecordFields) -> None:
    """Refuse a single message of a conversation tree, which has ``text`` as plain texts do.

    Raises:
        RecordError: The record is such a message.
    """
    found = [name for name in _OF_A_TREE if fields.peek(name) is not None]
    if found:
        raise RecordError(
            "a single message",
            f"it is a single message of a conversation, not a plain text: beside 'text' it has "
            f"{', '.join(found)}; put all messages of a conversation into one record, or read "
            f"it as a plain text with --schema text",
        )


def unknown_schema(fields: RecordFields, schemas: str) -> RecordError:
    """Return the error for a record that matches no schema, with options that may help.

    Args:
        fields: The record.
        schemas: The fields that the schemas need, for the message.
    """
    found = ", ".join(sorted(map(shown, fields))[:20]) or "none"
    if isinstance(fields.peek("role"), str) and "content" in fields:
        return RecordError(
            "a single message",
            "it is a single message, not a conversation; put all messages of a conversation into "
            "one record, as {'messages': [...]}",
        )
    return RecordError(
        "unknown schema",
        f"its schema is unknown: it has the fields {found}, but needs {schemas}; {_cure(fields)}",
    )


def _cure(fields: RecordFields) -> str:
    """Suggest options that may help."""
    lists = {name: fields.peek(name) for name in fields if isinstance(fields.peek(name), list)}
    for name, value in lists.items():
        if value and all(isinstance(item, dict) for item in value):
            return f"if '{shown(name)}' holds messages, add {_option(name, 'messages')}"
    lower = {name.lower(): name for name in fields if name not in lists}
    asked = next((lower[name] for name in ("prompt", *_QUESTIONS) if name in lower), None)
    answer = next((lower[name] for name in ("completion", *_ANSWERS) if name in lower), None)
    if asked is not None and answer is not None:
        pairs = ((asked, "prompt"), (answer, "completion"))
        options = " ".join(_option(*pair) for pair in pairs if pair[0] != pair[1])
        return f"if '{asked}' is a question and '{answer}' its answer, add {options}"
    for name, value in lists.items():
        if len(value) > 1 and all(isinstance(item, str) for item in value):
            option = _option(name, "turns")
            return (
                f"if '{shown(name)}' holds alternating texts of a user and an assistant, add "
                f"{option}"
            )
    return "name its fields with --field NAME=FIELD, such as --field question=prompt"


def _option(name: str, meaning: str) -> str:
    return f"--field {shlex.quote(f'{shown(name)}={meaning}')}"


def _is_a_judgement(label: Any) -> bool:
    return isinstance(label, bool) or label in (0, 1, "false", "False", "true", "True")


def _check_mask(fields: RecordFields) -> None:
    """Accept NeMo's ``mask``, which names a role that is not trained; refuse other values."""
    mask = fields.peek("mask")
    if mask is None:
        return
    role = None
    if isinstance(mask, str):
        role = fields.names.role(mask) if mask in fields.names.roles else mask.lower()
    if role not in ("user", "human", "system"):
        raise unknown_mark("mask", mask, "it")
    fields.get("mask")
