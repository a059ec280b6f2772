# SPDX-License-Identifier: Apache-2.0
"""Finds where a chat template writes each part of a conversation.

The conversation is rendered again with a tag of noncharacters inside each of its parts: contents,
thoughts, tool calls and their arguments, and definitions of tools. If the text without the tags is
the original text, the tags show where each part was written, and which parts were not. Unlike
``message_watch``, this also works for templates that read all messages before they write the first,
and for those that read a part but do not write it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from megatron_packing.chat.message_form import THOUGHTS, function_of, with_function
from megatron_packing.chat.template import ChatTemplate, Rendering
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Conversation, Message

# A tag is an opening character, the part's number in hexadecimal, and a closing character.
_DIGITS = [chr(0xFDD3 + digit) for digit in range(16)]
_TAG = re.compile(f"\ufdd2([{_DIGITS[0]}-{_DIGITS[-1]}]+)\ufde3")
_OF_TAGS = re.compile("[\ufdd2-\ufde3]")
# A content of this many characters does not occur in a text by chance.
_LONG = 16

Kind = Literal["content", "thoughts", "tool call", "tool call's arguments", "tool"]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of text of a conversation."""

    message: int | None
    """The number of its message; None for the definition of a tool."""
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class LocatedParts:
    """The parts of a conversation, and where the rendered text contains them."""

    parts: list[Part]
    offsets: list[list[int]] | None
    """For each part, the offset of one character of each occurrence. None if that is unknown
    because tags change the rendering."""
    text: str

    def missing(self) -> list[Part]:
        """Return the parts that the text does not contain."""
        if self.offsets is not None:
            return [part for part, found in zip(self.parts, self.offsets, strict=True) if not found]
        without_space = "".join(self.text.split())
        return [
            part
            for part in self.parts
            if "".join(part.text.split()) not in without_space
            and "".join(json.dumps(part.text, ensure_ascii=False)[1:-1].split())
            not in without_space
        ]

    def of_messages(self) -> list[tuple[int, int]] | None:
        """Return the offsets of all parts of messages in order, each with the message's number."""
        if self.offsets is None:
            return None
        return sorted(
            (offset, part.message)
            for part, offsets in zip(self.parts, self.offsets, strict=True)
            if part.message is not None
            for offset in offsets
        )


def find_parts(
    template: ChatTemplate, conversation: Conversation, rendering: Rendering
) -> LocatedParts:
    """Find the parts of a conversation in its rendering.

    Args:
        template: The template that rendered the conversation.
        conversation: The conversation.
        rendering: Its text, and its generated spans if they must stay the same.
    """
    parts: list[Part] = []
    for insert_at in (_middle, _end):
        tagger = _Tagger(insert_at)
        messages = [tagger.message(*item) for item in enumerate(conversation.messages)]
        tools = conversation.tools and [tagger.tool(tool) for tool in conversation.tools]
        parts = tagger.parts
        if any(_OF_TAGS.search(part.text) for part in parts):
            break
        try:
            tagged = template.render_marked(messages, tools, conversation.template_arguments)
        except RecordError:
            continue
        plain, offsets = _without_tags(tagged, len(parts))
        same_marks = not rendering.generated or plain.generated == rendering.generated
        if plain.text == rendering.text and same_marks:
            return LocatedParts(parts, offsets, rendering.text)
    return LocatedParts(parts, None, rendering.text)


def is_written_whole(conversation: Conversation, text: str) -> bool:
    """Whether all parts are long contents that follow one another in the text.

    This is a fast check: if it is False, the text may contain all parts nevertheless.
    """
    if conversation.tools:
        return False
    offset = 0
    for message in conversation.messages:
        content = (message["content"] or "").strip()
        if len(message) > 2 or len(content) < _LONG or "</think>" in content:
            return False
        offset = text.find(content, offset)
        if offset < 0:
            return False
        offset += len(content)
    return True


class _Tagger:
    """Puts tags into messages and tools, and lists the tagged parts."""

    def __init__(self, insert_at: Callable[[str], int]) -> None:
        self.parts: list[Part] = []
        self._insert_at = insert_at

    def message(self, number: int, message: Message) -> Message:
        tagged = dict(message)
        if message["content"]:
            tagged["content"] = self._content(number, message)
        seen: dict[str, str] = {}
        for field in THOUGHTS:
            thought = message.get(field)
            if isinstance(thought, str):
                if thought not in seen:
                    seen[thought] = self._tagged(number, "thoughts", thought)
                tagged[field] = seen[thought]
        if "tool_calls" in message:
            tagged["tool_calls"] = [self._call(number, call) for call in message["tool_calls"]]
        return tagged

    def tool(self, tool: Any) -> Any:
        inner = function_of(tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            return tool
        return with_function(tool, {**inner, "name": self._tagged(None, "tool", inner["name"])})

    def _content(self, number: int, message: Message) -> str:
        content = str(message["content"])
        if message["role"] != "assistant" or "</think>" not in content:
            return self._tagged(number, "content", content)
        before, close, answer = content.rpartition("</think>")
        said, opening, thought = before.rpartition("<think>")
        return (
            self._tagged(number, "content", said)
            + opening
            + self._tagged(number, "thoughts", thought)
            + close
            + self._tagged(number, "content", answer)
        )

    def _call(self, number: int, call: dict[str, Any]) -> dict[str, Any]:
        function = function_of(call)
        changed = {**function, "name": self._tagged(number, "tool call", function["name"])}
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            changed["arguments"] = {
                self._tagged(number, "tool call's arguments", key): value
                for key, value in arguments.items()
            }
        return with_function(call, changed)

    def _tagged(self, message: int | None, kind: Kind, text: str) -> str:
        if not text.strip():
            return text
        digits = "".join(_DIGITS[int(digit, 16)] for digit in f"{len(self.parts):x}")
        self.parts.append(Part(message, kind, text.strip()))
        offset = self._insert_at(text)
        return f"{text[:offset]}\ufdd2{digits}\ufde3{text[offset:]}"


def _middle(text: str) -> int:
    """Return the middle of a text, so that its start and its end stay the same."""
    stripped = len(text.strip())
    return len(text) - len(text.lstrip()) + (stripped + 1) // 2


def _end(text: str) -> int:
    return len(text.rstrip())


def _without_tags(rendering: Rendering, num_parts: int) -> tuple[Rendering, list[list[int]]]:
    """Remove the tags from a rendering and return the offsets of each part."""
    pieces = _TAG.split(rendering.text)  # texts alternate with the digits of tags
    texts, tags = pieces[::2], pieces[1::2]
    edges = list(accumulate(map(len, texts)))
    offsets: list[list[int]] = [[] for _ in range(num_parts)]
    for tag, edge in zip(tags, edges, strict=False):
        number = int("".join(f"{ord(digit) - 0xFDD3:x}" for digit in tag), 16)
        if number < num_parts:
            # The tag follows a character of its part.
            offsets[number].append(max(edge - 1, 0))
    lengths = [len(tag) + 2 for tag in tags]
    starts = [match.start() for match in _TAG.finditer(rendering.text)]
    removed = [0, *accumulate(lengths)]
    generated = [
        (start - removed[bisect_right(starts, start - 1)], stop - removed[_before(starts, stop)])
        for start, stop in rendering.generated
    ]
    return Rendering("".join(texts), generated), offsets


def _before(starts: list[int], stop: int) -> int:
    return bisect_right(starts, stop - 1)
