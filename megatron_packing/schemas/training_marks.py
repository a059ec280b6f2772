# SPDX-License-Identifier: Apache-2.0
"""Reads training marks: fields that say whether a record or a message is trained.

Each framework has its own name: ``weight`` (OpenAI), ``train`` and ``training`` (axolotl), ``loss``
and ``loss_scale`` (ms-swift), ``trainable`` (Tinker), ``masked`` (torchtune), ``mask`` with the
name of a role (NeMo). A field with a similar name but an unknown meaning is refused, because
training on an answer that its author excluded is worse than stopping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from megatron_packing.records.record import RecordError, shown

MARKS = {
    **dict.fromkeys(("train", "training", "trainable", "weight"), True),
    **dict.fromkeys(("loss", "loss_mask", "loss_scale", "loss_weight"), True),
    "masked": False,
}
"""Known marks, each with whether true means trained."""
_NAMES = frozenset(MARKS)

_LIKE_A_MARK = re.compile(
    r"(un)?train(s|ed|ing|able)?|loss(es)?|mask(s|ed|ing)?|weight(s|ed)?|learn(s|ed|able)?|"
    r"supervised?|ignored?|skip(ped)?|excluded?|grad(ient)?|frozen"
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def take_mark(values: dict[str, Any], where: str) -> bool | None:
    """Remove the marks from the fields of a message or a record.

    Args:
        values: The fields, without nulls. Known marks are removed.
        where: Names the message or record in errors: ``messages[0]`` or ``it``.

    Returns:
        Whether it is trained, or None without a mark. If marks differ, it is not trained.

    Raises:
        RecordError: A mark is not 0 or 1, true or false.
    """
    trained: bool | None = None
    if _NAMES.isdisjoint(values):
        return None
    for name, means_trained in MARKS.items():
        if name not in values:
            continue
        value = values.pop(name)
        if not _says_yes_or_no(value):
            raise RecordError(
                "unclear training mark",
                f"{_place(where, name)} is {_value(value)}, but a mark must be 0 or 1, true "
                f"or false; correct it, or add --field {name}=ignore to train by role alone",
            )
        trained = bool(value) is means_trained and trained is not False
    return trained


def check_no_unknown_mark(values: Mapping[str, Any], where: str) -> None:
    """Refuse a field of a message that may be a mark but is unknown.

    Raises:
        RecordError: There is such a field.
    """
    for name in values:
        if _is_like_a_mark(name):
            raise unknown_mark(name, values[name], where)


def unknown_mark(name: str, value: Any, where: str) -> RecordError:
    """Return the error for a mark with an unclear meaning."""
    if not _says_yes_or_no(value):
        return RecordError(
            "unclear training mark",
            f"{_place(where, name)} is {_value(value)}, which may say what is trained but is not "
            f"0 or 1, true or false; add --field {shown(name)}=ignore to train by role alone, or "
            f"write such a mark into each message",
        )
    return RecordError(
        "unclear training mark",
        f"{_place(where, name)} is {_value(value)}, which may say whether it is trained; say what "
        f"it means with --field {shown(name)}=loss_mask (1 or true: trained), "
        f"--field {shown(name)}=masked (1 or true: not trained) or --field {shown(name)}=ignore",
    )


def _says_yes_or_no(value: Any) -> bool:
    return isinstance(value, bool | int | float) and value in (0, 1)


@lru_cache(4096)
def _is_like_a_mark(name: str) -> bool:
    return any(_LIKE_A_MARK.fullmatch(word.lower()) for word in _WORD.findall(name))


def _place(where: str, name: str) -> str:
    return f"its field '{shown(name)}'" if where == "it" else f"{where}.{shown(name)}"


def _value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
