# SPDX-License-Identifier: Apache-2.0
"""Where a chat template writes each part of a conversation.

A conversation is rendered once more with a tag of noncharacters inside each of its parts: contents,
thoughts, tool calls and their arguments, and the definitions of tools. Without its tags that text
must be the one that is used; the tags then tell where each part was written, and which were not.
Unlike watching what a template reads, this also holds for templates that read all messages before
they write the first, and for those that read a part and do not write it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from megatron_packing.chat.template import THOUGHTS, ChatTemplate, Rendering
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Conversation, Message

# A tag is its opening, the part's number in sixteen digits, and its closing.
_DIGITS = [chr(0xFDD3 + digit) for digit in range(16)]
_TAG = re.compile(f"\ufdd2([{_DIGITS[0]}-{_DIGITS[-1]}]+)\ufde3")
_OF_TAGS = re.compile("[\ufdd2-\ufde3]")
# Found in a text, one so long is not there by chance.
_LONG = 16

Kind = Literal["content", "thoughts", "tool call", "tool call's arguments", "tool"]


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a record says."""

    message: int | None
    """Which message says it; None for the definition of a tool."""
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class PartPlaces:
    """The parts of a conversation, and where its text has them."""

    parts: list[Part]
    places: list[list[int]] | None
    """For each part, the characters of the text inside it; None where that cannot be known, since
    the template writes a text with tags differently."""
    text: str

    def missing(self) -> list[Part]:
        """The parts that the text has not."""
        if self.places is not None:
            return [part for part, found in zip(self.parts, self.places, strict=True) if not found]
        without_space = "".join(self.text.split())
        return [
            part
            for part in self.parts
            if "".join(part.text.split()) not in without_space
            and "".join(json.dumps(part.text, ensure_ascii=False)[1:-1].split())
            not in without_space
        ]

    def of_messages(self) -> list[tuple[int, int]] | None:
        """The places of all parts of messages in order, each with the message's number."""
        if self.places is None:
            return None
        return sorted(
            (place, part.message)
            for part, places in zip(self.parts, self.places, strict=True)
            if part.message is not None
            for place in places
        )


def find_parts(
    template: ChatTemplate, conversation: Conversation, rendering: Rendering
) -> PartPlaces:
    """Find the parts of a conversation in its rendering.

    Args:
        template: Which rendered it.
        conversation: What was rendered.
        rendering: Its text, and what was generated of it; nothing where that is of no matter.
    """
    parts: list[Part] = []
    for place in (_middle, _end):
        tagger = _Tagger(place)
        messages = [tagger.message(*item) for item in enumerate(conversation.messages)]
        tools = conversation.tools and [tagger.tool(tool) for tool in conversation.tools]
        parts = tagger.parts
        if any(_OF_TAGS.search(part.text) for part in parts):
            break
        try:
            tagged = template.render_marked(messages, tools, conversation.template_arguments)
        except RecordError:
            continue
        plain, places = _without_tags(tagged, len(parts))
        same_marks = not rendering.generated or plain.generated == rendering.generated
        if plain.text == rendering.text and same_marks:
            return PartPlaces(parts, places, rendering.text)
    return PartPlaces(parts, None, rendering.text)


def is_written_whole(conversation: Conversation, text: str) -> bool:
    """Whether all parts are long contents that stand in the text one after another.

    That is quick to see. Where it does not hold the parts may be there all the same.
    """
    if conversation.tools:
        return False
    place = 0
    for message in conversation.messages:
        content = (message["content"] or "").strip()
        if len(message) > 2 or len(content) < _LONG or "</think>" in content:
            return False
        place = text.find(content, place)
        if place < 0:
            return False
        place += len(content)
    return True


class _Tagger:
    """Puts tags into messages and tools and notes what they are in."""

    def __init__(self, place: Callable[[str], int]) -> None:
        self.parts: list[Part] = []
        self._place = place

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
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            return tool
        changed = {**inner, "name": self._tagged(None, "tool", inner["name"])}
        return changed if inner is tool else {**tool, "function": changed}

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
        function = call.get("function", call)
        changed = {**function, "name": self._tagged(number, "tool call", function["name"])}
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            changed["arguments"] = {
                self._tagged(number, "tool call's arguments", key): value
                for key, value in arguments.items()
            }
        return {**call, "function": changed} if "function" in call else changed

    def _tagged(self, message: int | None, kind: Kind, text: str) -> str:
        if not text.strip():
            return text
        digits = "".join(_DIGITS[int(digit, 16)] for digit in f"{len(self.parts):x}")
        self.parts.append(Part(message, kind, text.strip()))
        place = self._place(text)
        return f"{text[:place]}\ufdd2{digits}\ufde3{text[place:]}"


def _middle(text: str) -> int:
    """Inside a text, so that what it starts and ends with stays what it was."""
    stripped = len(text.strip())
    return len(text) - len(text.lstrip()) + (stripped + 1) // 2


def _end(text: str) -> int:
    return len(text.rstrip())


def _without_tags(rendering: Rendering, num_parts: int) -> tuple[Rendering, list[list[int]]]:
    """Take the tags out of a rendering and say where each part's were."""
    pieces = _TAG.split(rendering.text)  # texts and the digits of tags in turn
    texts, tags = pieces[::2], pieces[1::2]
    edges = list(accumulate(map(len, texts)))
    places: list[list[int]] = [[] for _ in range(num_parts)]
    for tag, edge in zip(tags, edges, strict=False):
        number = int("".join(f"{ord(digit) - 0xFDD3:x}" for digit in tag), 16)
        if number < num_parts:
            # The tag follows a character of its part.
            places[number].append(max(edge - 1, 0))
    lengths = [len(tag) + 2 for tag in tags]
    starts = [match.start() for match in _TAG.finditer(rendering.text)]
    removed = [0, *accumulate(lengths)]
    generated = [
        (start - removed[bisect_right(starts, start - 1)], stop - removed[_before(starts, stop)])
        for start, stop in rendering.generated
    ]
    return Rendering("".join(texts), generated), places


def _before(starts: list[int], stop: int) -> int:
    return bisect_right(starts, stop - 1)
