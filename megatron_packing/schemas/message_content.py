# SPDX-License-Identifier: Apache-2.0
"""Reads the content of a message into one text, and its thought if it has one.

Content is a text or a list of parts: ``{"type": "text", "text": ...}`` (OpenAI), ``input_text`` and
``output_text`` (OpenAI Responses), ``{"type": "thinking", "thinking": ...}`` (Anthropic, Mistral),
parts without a type, or texts.
"""

from __future__ import annotations

from typing import Any

from megatron_packing.records.record import RecordError, is_empty, shown, type_name, wrong_type

THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Fields of a message that hold its thought."""
MEDIA = ("image", "images", "image_url", "audio", "audios", "input_audio", "video", "videos")
"""Fields that hold images, audio or video."""
_MEDIA = frozenset(MEDIA)
_TEXT_TYPES = ("text", "input_text", "output_text")
_THOUGHT_TYPES = ("thinking", "reasoning")


def read_content(content: Any, where: str) -> tuple[str, str | None]:
    """Return the text of a content, and the thought among its parts or None.

    Raises:
        RecordError: The content is not made of texts alone.
    """
    if isinstance(content, str):
        return content, None
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise wrong_type(where, content, "a text")
    texts: list[str] = []
    thoughts: list[str] = []
    for number, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind, text = _part(part, f"{where}[{number}]")
        (thoughts if kind in _THOUGHT_TYPES else texts).append(text)
    return "".join(texts), "\n".join(thoughts) if thoughts else None


def check_no_media(values: Any, where: str) -> None:
    """Refuse images, audio and video beside a text.

    Args:
        values: The fields of a record or a message.
        where: Names the record or message in errors.

    Raises:
        RecordError: One of the fields is not empty.
    """
    if _MEDIA.isdisjoint(values):
        return
    for name in MEDIA:
        if name in values and not is_empty(values[name]):
            raise RecordError(
                "content is not text",
                f"{where} has {name} beside its text, but only text can be used; add "
                f"--field {name}=ignore to use the text alone",
            )


def take_thought(values: dict[str, Any], of_parts: str | None, where: str) -> None:
    """Check the thoughts of a message, and add the one among its content's parts.

    Raises:
        RecordError: A thought is not a text, or two thoughts differ.
    """
    found = {name: values[name] for name in THOUGHTS if name in values}
    for name, thought in found.items():
        if not isinstance(thought, str):
            raise wrong_type(f"{where}.{name}", thought, "a text")
    different = {thought for thought in (*found.values(), of_parts) if thought}
    if len(different) > 1:
        names = [*found, *(["its content's parts"] if of_parts else [])]
        raise RecordError(
            "two thoughts",
            f"{where} has different thoughts in {' and '.join(names)}; keep one of them",
        )
    if of_parts and not any(found.values()):
        values[THOUGHTS[0]] = of_parts


def _part(part: Any, where: str) -> tuple[str, str]:
    """Return the type of a part, and its text."""
    if not isinstance(part, dict):
        raise RecordError(
            "content is not text", f"{where} is {type_name(part)}; only text can be used"
        )
    present = {name: value for name, value in part.items() if not is_empty(value)}
    kind = present.get("type")
    if kind is None:  # its fields determine the type
        kind = next((name for name in (*MEDIA, *_THOUGHT_TYPES, "text") if name in part), None)
        if kind is None:
            names = ", ".join(sorted(map(shown, part))[:10]) or "none"
            raise RecordError(
                "content is not text",
                f"{where} is an object with the fields {names}; only text can be used",
            )
    media = next((name for name in MEDIA if name in present), None)
    if kind in _TEXT_TYPES and media is None:
        return "text", _text(part.get("text"), f"{where}.text")
    if kind in _THOUGHT_TYPES and media is None:
        holder = next((name for name in (*_THOUGHT_TYPES, "text") if name in present), kind)
        return kind, _text(part.get(holder), f"{where}.{holder}")
    found = media if kind in _TEXT_TYPES and media is not None else kind
    shown_type = shown(found if isinstance(found, str) else str(found))
    raise RecordError(
        "content is not text", f"{where} is of type '{shown_type}'; only text can be used"
    )


def _text(value: Any, where: str) -> str:
    if isinstance(value, dict) and isinstance(value.get("value"), str):  # OpenAI Assistants
        return str(value["value"])
    if isinstance(value, list):  # thoughts in Mistral's format
        text, _ = read_content(value, where)
        return text
    if not isinstance(value, str):
        raise wrong_type(where, value, "a text")
    return value
