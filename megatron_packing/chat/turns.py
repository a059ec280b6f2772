# SPDX-License-Identifier: Apache-2.0
"""Renders conversations and finds their trained spans.

A trained span is text that the model itself writes: the text of an assistant turn and the token
that ends it. If the template marks it with ``{% generation %}``, the marks are used. Otherwise it
is found by rendering prefixes of the conversation; see ``prefix_spans``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from megatron_packing.chat.marked_spans import spans_of_turns
from megatron_packing.chat.message_form import THOUGHTS
from megatron_packing.chat.message_parts import LocatedParts, find_parts
from megatron_packing.chat.omissions import check_holds, check_written, holds
from megatron_packing.chat.prefix_spans import PrefixSpans
from megatron_packing.chat.rendered_conversation import RenderedConversation
from megatron_packing.chat.template import ChatTemplate, Rendering, Span
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Conversation, Message
from megatron_packing.tokenizers.text_tokenizer import any_of

LossOn = Literal["assistant", "last-assistant", "all"]


class TurnFinder:
    """Renders conversations and finds their trained spans."""

    def __init__(
        self,
        template: ChatTemplate,
        special_tokens: Iterable[str],
        loss_on: LossOn = "assistant",
        allow_other_template: bool = False,
    ) -> None:
        """Find the generation prompt of a template.

        Args:
            template: Renders the conversations.
            special_tokens: The special tokens of the tokenizer.
            loss_on: Which messages are trained.
            allow_other_template: Count omissions of untrained messages, of tools and of a record's
                arguments instead of refusing the record.
        """
        self._template = template
        self._loss_on = loss_on
        self._allow_other_template = allow_other_template
        self._tokens = tuple(special_tokens)
        self._special = any_of(self._tokens)
        self._prefixes = PrefixSpans(template, self._special)

    def render(self, conversation: Conversation) -> RenderedConversation:
        """Render a conversation and find its trained spans.

        Raises:
            RecordError: The template refuses the conversation or leaves out a part of it, a turn
                cannot be found, or nothing would be trained.
        """
        turns = self._trained_turns(conversation)
        for turn in turns:
            message = conversation.messages[turn]
            if message["role"] != "assistant":
                continue
            said = (message["content"] or "").strip()
            if not said and not any(map(message.get, ("tool_calls", *THOUGHTS))):
                raise RecordError("empty answer", f"its assistant message {turn} is empty")
        located = None
        if self._loss_on == "all":
            found = self._prefixes.of_all_but(conversation, turns)
        elif self._template.has_marks:
            found, located = self._from_marks(conversation, turns)
        else:
            found = self._prefixes.of_turns(conversation, turns)
        notes = check_written(
            *(self._template, conversation, turns, found.text, located, self._allow_other_template)
        )
        return RenderedConversation(found.text, found.trained, found.ends, notes)

    def _trained_turns(self, conversation: Conversation) -> list[int]:
        """Return the numbers of the trained messages."""
        pairs = list(zip(conversation.messages, conversation.trained, strict=True))
        turns = _answers(conversation.messages)
        if not turns:
            raise RecordError(
                "no assistant message", "it has no assistant message, so nothing is trained"
            )
        if self._loss_on == "all":
            turns = list(range(len(pairs)))
        elif self._loss_on == "last-assistant":
            turns = turns[-1:]
        turns = [number for number in turns if pairs[number][1]]
        if not turns:
            raise RecordError("nothing trained", "its own flags leave no message to train")
        return turns

    def _from_marks(
        self, conversation: Conversation, turns: list[int]
    ) -> tuple[RenderedConversation, LocatedParts | None]:
        messages, tools = conversation.messages, conversation.tools
        answers = _answers(messages)
        rendering = self._template.render_marked(messages, tools, conversation.template_arguments)
        text, generated = rendering.text, rendering.generated
        located = None
        spans: list[Span] = []
        if turns == answers and _each_holds_its_own(rendering, messages, answers):
            of_turns = {turn: [span] for turn, span in zip(answers, generated, strict=True)}
        else:
            located = find_parts(self._template, conversation, rendering)
            of_turns, spans = spans_of_turns(generated, located, answers, turns)
        ends: list[tuple[int, int]] = []
        for turn, own in of_turns.items():
            check_holds(turn, messages[turn], "".join(text[a:b] for a, b in own))
            if not own:
                raise RecordError(
                    "template", f"the chat template marks nothing of assistant message {turn}"
                )
            start, stop = own[-1]
            ends.append((turn, self._with_end_token(text, stop)))
            spans += [*own[:-1], (start, ends[-1][1])]
        spans = sorted(span for span in spans if span[0] < span[1])
        return RenderedConversation(text, spans, ends), located

    def _with_end_token(self, text: str, stop: int) -> int:
        """Return the end of a turn, including its end token if the marks leave that out."""
        token = self._special.match(text, stop)
        if token is None or token[0] in self._prefixes.openers:
            return stop
        return stop if text[:stop].rstrip().endswith(self._tokens) else token.end()


def _answers(messages: list[Message]) -> list[int]:
    return [n for n, message in enumerate(messages) if message["role"] == "assistant"]


def _each_holds_its_own(rendering: Rendering, messages: list[Message], answers: list[int]) -> bool:
    spans = rendering.generated
    return len(spans) == len(answers) and all(
        holds(messages[answer], rendering.text[start:stop])
        for answer, (start, stop) in zip(answers, spans, strict=True)
    )
