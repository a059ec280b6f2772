# SPDX-License-Identifier: Apache-2.0
"""Records that look like conversations or texts and are something else."""

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
# Names of columns and what they most likely are, for the option that is proposed.
_QUESTIONS = ("question", "query", "problem", "input", "user", "human", "ask", "q")
_ANSWERS = (
    *("answer", "response", "solution", "output", "assistant", "reply", "target", "chosen", "a"),
)


def check_can_be_trained(fields: RecordFields, *, conversation: bool) -> None:
    """Refuse preference data, media and records whose own mark says that they are not trained.

    Args:
        fields: The record; marks of its own are taken for read.
        conversation: Whether its schema has answers, which a label may judge.

    Raises:
        RecordError: It is one of these, or a mark is not clear.
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
                "fields taken for a label of preference data (KTO) that calls the answer good", name
            )
            if fields.get(name) in (False, 0, "false", "False"):
                raise RecordError(
                    "preference data",
                    f"its field '{name}' is {label!r}, so it is preference data (KTO) and its "
                    f"answer a bad one, which is not to be learned; leave it out, or add "
                    f"--field {name}=ignore if that is not what the field says",
                )
    check_no_media({name: fields.peek(name) for name in fields}, "it")
    marks = {name: fields.get(name) for name in MARKS if name in fields}
    if take_mark(marks, "it") is False:
        raise RecordError("marked as not trained", "its own mark says that it is not trained")
    _check_mask(fields)


def check_no_preference(fields: RecordFields) -> None:
    """Refuse pairs of a good and a bad answer.

    Raises:
        RecordError: It is one.
    """
    bad = next((name for name in _REJECTED if not is_empty(fields.peek(name))), None)
    if bad is not None:
        raise RecordError(
            "preference data",
            f"it has '{bad}', so it is preference data (pairs of a chosen and a rejected answer), "
            f"which is not for this training; make messages of what was chosen, or add "
            f"--field {bad}=ignore if its other fields hold one good conversation",
        )


def check_no_tree(fields: RecordFields) -> None:
    """Refuse one message of a conversation that has the field of a plain text.

    Raises:
        RecordError: It is one.
    """
    found = [name for name in _OF_A_TREE if fields.peek(name) is not None]
    if found:
        raise RecordError(
            "a single message",
            f"it is one message of a conversation and no plain text: beside 'text' it has "
            f"{', '.join(found)}; put the messages of each conversation into one record, or take "
            f"it as a text with --schema text",
        )


def unknown_schema(fields: RecordFields, schemas: str) -> RecordError:
    """What is wrong with a record of no known schema, and the options that may help.

    Args:
        fields: The record.
        schemas: The fields of those that are known.
    """
    found = ", ".join(sorted(map(shown, fields))[:20]) or "none"
    if isinstance(fields.peek("role"), str) and "content" in fields:
        return RecordError(
            "a single message",
            "it is one message and no conversation; put the messages of each conversation into one "
            "record, as {'messages': [...]}",
        )
    return RecordError(
        "unknown schema",
        f"its schema is not known: it has the fields {found}, where one would have {schemas}; "
        f"{_cure(fields)}",
    )


def _cure(fields: RecordFields) -> str:
    """Which option may help."""
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
                f"if '{shown(name)}' holds what a user and an assistant say in turn, add {option}"
            )
    return "name its fields with --field NAME=FIELD, such as --field question=prompt"


def _option(name: str, meaning: str) -> str:
    return f"--field {shlex.quote(f'{shown(name)}={meaning}')}"


def _is_a_judgement(label: Any) -> bool:
    return isinstance(label, bool) or label in (0, 1, "false", "False", "true", "True")


def _check_mask(fields: RecordFields) -> None:
    """NeMo's ``mask`` names the role that is not trained; others mean other things."""
    mask = fields.peek("mask")
    if mask is None:
        return
    role = None
    if isinstance(mask, str):
        role = fields.names.role(mask) if mask in fields.names.roles else mask.lower()
    if role not in ("user", "human", "system"):
        raise unknown_mark("mask", mask, "it")
    fields.get("mask")
