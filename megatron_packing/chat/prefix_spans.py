# SPDX-License-Identifier: Apache-2.0
"""Finds the trained spans of a conversation by rendering its prefixes.

A turn starts where the rendering of the messages before it, with the generation prompt, ends. It
ends where the rendering that includes it ends, without the text after its end tokens: ChatML's line
break after ``<|im_end|>`` is written by the template, not by the model. Both renderings must be
prefixes of the whole text. A template that renders a turn differently when more messages follow,
such as one that drops earlier thoughts, is refused, because the model would be trained on text that
it never sees in use.
"""

from __future__ import annotations

import re

from megatron_packing.chat.omissions import check_holds
from megatron_packing.chat.rendered_conversation import RenderedConversation
from megatron_packing.chat.template import ChatTemplate, Span
from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Conversation, Message

WHERE_MARKED = "such as the files trl/chat_templates/NAME_training.jinja of the package trl"
"""Where templates with generation marks come from."""

_OPENED_THOUGHT = re.compile(r"(<[^<>\s]+>)\s*$")


class PrefixSpans:
    """Renders prefixes of conversations and finds their trained spans."""

    def __init__(self, template: ChatTemplate, special: re.Pattern[str]) -> None:
        """Find the generation prompt of a template.

        Args:
            template: Renders the conversations.
            special: Matches the special tokens of the tokenizer.
        """
        self._template = template
        self._special = special
        self._prompt, self._closing = self._generation_prompt()
        self.openers = frozenset(special.findall(self._prompt))
        """The special tokens of the generation prompt."""

    def of_turns(self, conversation: Conversation, turns: list[int]) -> RenderedConversation:
        """Render a conversation and find the spans of turns.

        Args:
            conversation: The conversation.
            turns: The numbers of its trained messages.

        Raises:
            RecordError: The template refuses the conversation, or a span cannot be found.
        """
        messages = conversation.messages
        if len(turns) > 1:
            found = self._from_one_rendering(conversation, turns)
            if found is not None:
                return found
        text = self._whole(conversation)
        spans: list[Span] = []
        for turn in turns:
            after = text if turn + 1 == len(messages) else self._prefix(conversation, turn + 1)
            if turn:
                before = self._prefix(conversation, turn, prompt=True)
            else:
                before = self._opening(after, str(messages[0]["content"]))
            _check_prefixes(text, after, before, turn)
            end = self._end_of_turn(messages[turn], text, len(before), len(after))
            spans.append((len(before), end))
        return _checked(conversation, turns, text, spans)

    def of_all_but(self, conversation: Conversation, turns: list[int]) -> RenderedConversation:
        """Render a conversation and find the spans of everything but the untrained messages.

        Args:
            conversation: The conversation.
            turns: The numbers of its trained messages.

        Raises:
            RecordError: The template refuses the conversation, or a span cannot be found.
        """
        text = self._whole(conversation)
        spans: list[Span] = []
        start = 0
        for number in range(len(conversation.messages)):
            if number in turns:
                continue
            before = self._prefix(conversation, number) if number else ""
            after = self._prefix(conversation, number + 1)
            _check_prefixes(text, after, before, number)
            spans.append((start, len(before)))
            start = len(after)
        spans.append((start, len(text)))
        return RenderedConversation(text, [span for span in spans if span[0] < span[1]])

    def _generation_prompt(self) -> tuple[str, str]:
        """Return the generation prompt, empty if unknown, and the text that ends a conversation.

        Phi 3's template writes an end of text wherever no prompt is requested, even after half a
        conversation.
        """
        asked = [{"role": "user", "content": "Hi"}]
        try:
            before = self._template.render(asked, None, prompt=False)
            after = self._template.render(asked, None, prompt=True)
        except (RecordError, InputError):
            return "", ""
        if after.startswith(before):
            return after[len(before) :], ""
        tokens = list(self._special.finditer(before))
        if (
            tokens
            and tokens[-1].end() == len(before)
            and after.startswith(before[: tokens[-1].start()])
        ):
            return after[tokens[-1].start() :], tokens[-1][0]
        return "", ""

    def _prefix(self, conversation: Conversation, number: int, *, prompt: bool = False) -> str:
        """Render the first messages, without the text that ends a conversation."""
        text = self._render(conversation, conversation.messages[:number], prompt)
        return text if prompt else text.removesuffix(self._closing)

    def _whole(self, conversation: Conversation) -> str:
        return self._render(conversation, conversation.messages, False)

    def _render(self, conversation: Conversation, messages: list[Message], prompt: bool) -> str:
        tools, arguments = conversation.tools, conversation.template_arguments
        return self._template.render(messages, tools, prompt=prompt, arguments=arguments)

    def _from_one_rendering(
        self, conversation: Conversation, turns: list[int]
    ) -> RenderedConversation | None:
        """Find turns by where the template first reads each message; None if that is unknown.

        The first turn is also rendered by itself. Its opening and its end must be those of every
        turn: if a template reads a message early, a turn would lack its own end or the end before.
        """
        messages, arguments = conversation.messages, conversation.template_arguments
        first = turns[0]
        if first == 0 or "tool_calls" in messages[first]:
            return None
        rendering = self._template.render_watched(messages, conversation.tools, arguments)
        text, starts = rendering.text, rendering.starts
        if starts is None or self._closing:
            return None
        ends = [*starts[1:], len(text)]
        before = self._prefix(conversation, first, prompt=True)
        after = self._prefix(conversation, first + 1)
        content = (messages[first]["content"] or "").strip()
        opening = before[starts[first] :]
        closing = after[after.rfind(content) + len(content) :].strip() if content else ""
        if not (
            closing
            and content in after[starts[first] :]
            and text.startswith(after)
            and after.startswith(before)
            and len(after) == ends[first]
        ):
            return None
        spans: list[Span] = []
        for turn in turns:
            start, end = starts[turn], ends[turn]
            if not (
                messages[turn - 1]["role"] == messages[first - 1]["role"]
                and text.startswith(opening, start)
                and text[start + len(opening) : end].rstrip().endswith(closing)
            ):
                return None
            start += len(opening)
            spans.append((start, self._end_of_turn(messages[turn], text, start, end)))
        return _checked(conversation, turns, text, spans)

    def _end_of_turn(self, message: Message, text: str, start: int, stop: int) -> int:
        """Find where the end tokens of a turn end, before other text that the template writes.

        End tokens follow the content without a gap. If the message has calls after its content, or
        the content is not found unchanged, they are the tokens at the end of the turn, apart from
        white space. Tokens of the generation prompt are never end tokens.
        """
        content = (message["content"] or "").strip()
        said = -1 if message.get("tool_calls") else text.rfind(content, start, stop)
        if said >= 0 and content:
            said += len(content)
            found = list(self._special.finditer(text, said, stop))
            if found and not text[said : found[0].start()].strip():
                end = found[0].end()
                for token in found[1:]:
                    if token.start() != end or token[0] in self.openers:
                        break
                    end = token.end()
                return end
        end = stop
        for token in reversed(list(self._special.finditer(text, start, stop))):
            if text[token.end() : end].strip():
                break
            if token[0] not in self.openers:
                return token.end()
            end = token.start()
        return stop

    def _opening(self, rendered: str, content: str) -> str:
        """Return the text before the content of the first message.

        Few templates render a generation prompt without messages, so this searches for the prompt
        followed by the content.
        """
        found = re.escape(self._prompt) + r"\s*" + re.escape(content.strip())
        starts = [match.start() for match in re.finditer(found, rendered)]
        if len(starts) != 1 or not content.strip():
            raise RecordError(
                "template",
                "it starts with an assistant message that cannot be located in the rendered text",
            )
        return rendered[: starts[0] + len(self._prompt)]


def _checked(
    conversation: Conversation, turns: list[int], text: str, spans: list[Span]
) -> RenderedConversation:
    for turn, (start, end) in zip(turns, spans, strict=True):
        message, rendered = conversation.messages[turn], text[start:end]
        opened = _OPENED_THOUGHT.search(text[max(0, start - 64) : start])
        if opened and (message["content"] or "").lstrip().startswith(opened[1]):
            rendered = opened[0] + rendered  # the prompt contains the start of the answer
        check_holds(turn, message, rendered)
    ends = [(turn, end) for turn, (_, end) in zip(turns, spans, strict=True)]
    return RenderedConversation(text, spans, ends)


def _check_prefixes(text: str, after: str, before: str, number: int) -> None:
    advice = f"use a template with {{% generation %}} marks, {WHERE_MARKED}"
    if not text.startswith(after):
        raise RecordError(
            "template",
            f"the chat template renders message {number} differently when more messages follow, so "
            f"the model would be trained on text that it never sees in use; {advice}",
        )
    if not after.startswith(before):
        raise RecordError(
            "template",
            f"the chat template does not begin message {number} with its generation prompt, so the "
            f"start of the answer is unknown; {advice}",
        )
