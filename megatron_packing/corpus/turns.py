"""Finds what of a rendered conversation is trained.

Trained is what the model itself would have written: the text of each assistant turn and the token
that ends it. Where the template marks that with ``{% generation %}``, the marks are used. Elsewhere
a turn is what stands between the rendering of the conversation before it, with the generation
prompt, and the rendering that ends with it, less the white space after its last special token
(ChatML's line break after ``<|im_end|>`` is written by the template, not by the model). Both must
be prefixes of the whole: a template that renders a turn differently once more follows it, such as
those that drop earlier thoughts, would train on what the model never sees, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_packing.corpus.chat_template import ChatTemplate, Rendering, Span
from megatron_packing.corpus.conversations import Conversation
from megatron_packing.corpus.records import RecordError
from megatron_packing.corpus.text_tokenizer import any_of

# Fields in which an assistant message says something beside its content.
_SAYS_MORE = ("tool_calls", "reasoning_content", "reasoning", "thinking")

LossOn = Literal["assistant", "last-assistant", "all"]


@dataclass(frozen=True, slots=True)
class RenderedConversation:
    """A conversation as text, and what of it is trained."""

    text: str
    trained: list[Span]


class TurnFinder:
    """Renders conversations and finds their trained spans."""

    def __init__(
        self, template: ChatTemplate, special_tokens: Iterable[str], loss_on: LossOn = "assistant"
    ) -> None:
        self._template = template
        self._loss_on = loss_on
        self._special = any_of(special_tokens)

    def render(self, conversation: Conversation) -> RenderedConversation:
        """Render a conversation and find what of it is trained.

        Raises:
            RecordError: The template refuses the conversation, a turn cannot be found in it, or
                nothing would be trained.
        """
        turns = self._trained_turns(conversation)
        if self._loss_on == "all":
            return self._all_but(conversation, set(turns))
        for turn in turns:
            message = conversation.messages[turn]
            if not message["content"].strip() and not any(map(message.get, _SAYS_MORE)):
                raise RecordError("empty answer", f"its assistant message {turn} is empty")
        if self._template.has_marks:
            return self._from_marks(conversation, turns)
        return self._from_prefixes(conversation, turns)

    def _trained_turns(self, conversation: Conversation) -> list[int]:
        """The numbers of the messages that are trained."""
        pairs = list(zip(conversation.messages, conversation.trained, strict=True))
        if self._loss_on == "all":
            turns = [number for number, (_, trained) in enumerate(pairs) if trained]
        else:
            answers = [n for n, (message, _) in enumerate(pairs) if message["role"] == "assistant"]
            if not answers:
                raise RecordError(
                    "no assistant message", "it has no assistant message, so nothing is trained"
                )
            if self._loss_on == "last-assistant":
                answers = answers[-1:]
            turns = [number for number in answers if pairs[number][1]]
        if not turns:
            raise RecordError("nothing trained", "its own flags leave no message to train")
        return turns

    def _all_but(self, conversation: Conversation, turns: set[int]) -> RenderedConversation:
        """Train everything but the messages whose own flags forbid it."""
        messages, tools = conversation.messages, conversation.tools
        text = self._template.render(messages, tools, prompt=False)
        spans: list[Span] = []
        start = 0
        for number in range(len(messages)):
            if number in turns:
                continue
            before = self._template.render(messages[:number], tools, prompt=False) if number else ""
            after = self._template.render(messages[: number + 1], tools, prompt=False)
            self._check_prefix(text, after, before, number)
            spans.append((start, len(before)))
            start = len(after)
        spans.append((start, len(text)))
        return RenderedConversation(text, [span for span in spans if span[0] < span[1]])

    def _from_marks(self, conversation: Conversation, turns: list[int]) -> RenderedConversation:
        messages = conversation.messages
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if turns == answers:
            rendering = self._template.render_marked(messages, conversation.tools)
            spans = rendering.generated
        else:
            rendering = self._template.render_watched(messages, conversation.tools)
            spans = [
                span
                for span, turn in zip(
                    rendering.generated, _turns_of(rendering, answers), strict=True
                )
                if turn in turns
            ]
        spans = [span for span in spans if span[0] < span[1]]
        if not spans:
            raise RecordError(
                "template", "the chat template's generation marks hold nothing of it to train"
            )
        return RenderedConversation(rendering.text, spans)

    def _from_prefixes(self, conversation: Conversation, turns: list[int]) -> RenderedConversation:
        messages, tools = conversation.messages, conversation.tools
        if len(turns) > 1:
            found = self._from_one_rendering(conversation, turns)
            if found is not None:
                return found
        text = self._template.render(messages, tools, prompt=False)
        spans: list[Span] = []
        for turn in turns:
            if turn + 1 == len(messages):
                after = text
            else:
                after = self._template.render(messages[: turn + 1], tools, prompt=False)
            if turn:
                before = self._template.render(messages[:turn], tools, prompt=True)
            else:
                before = _opening(after, str(messages[0]["content"]))
            self._check_prefix(text, after, before, turn)
            spans.append((len(before), self._end_of_turn(text, len(before), len(after))))
        return self._checked(conversation, turns, text, spans)

    def _from_one_rendering(
        self, conversation: Conversation, turns: list[int]
    ) -> RenderedConversation | None:
        """Find turns by where the template first read each message; None if that is not known.

        The first turn is also rendered by itself. What opens and what ends it must open and end
        all: a template that reads a message early would leave its end, or the one's before, out.
        """
        messages, tools = conversation.messages, conversation.tools
        first = turns[0]
        if first == 0 or "tool_calls" in messages[first]:
            return None
        text, _, starts = _fields(self._template.render_watched(messages, tools))
        if starts is None:
            return None
        ends = [*starts[1:], len(text)]
        before = self._template.render(messages[:first], tools, prompt=True)
        after = self._template.render(messages[: first + 1], tools, prompt=False)
        content = str(messages[first]["content"]).strip()
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
            spans.append((start, self._end_of_turn(text, start, end)))
        return self._checked(conversation, turns, text, spans)

    def _checked(
        self, conversation: Conversation, turns: list[int], text: str, spans: list[Span]
    ) -> RenderedConversation:
        """Refuse templates that leave out or change what the assistant said."""
        for turn, (start, end) in zip(turns, spans, strict=True):
            content = str(conversation.messages[turn]["content"])
            if content.strip() not in text[start:end] and (
                "".join(content.split()) not in "".join(text[start:end].split())
            ):
                raise RecordError(
                    "template",
                    f"the chat template leaves out or changes part of assistant message {turn}; "
                    f"use one that keeps it, or one with {{% generation %}} marks",
                )
        return RenderedConversation(text, spans)

    def _end_of_turn(self, text: str, start: int, stop: int) -> int:
        end = stop
        for special in self._special.finditer(text, start, stop):
            end = special.end()
        return end if not text[end:stop].strip() else stop

    @staticmethod
    def _check_prefix(text: str, after: str, before: str, number: int) -> None:
        if not text.startswith(after):
            raise RecordError(
                "template",
                f"the chat template renders message {number} differently when more follows, so "
                f"what would be trained is not what the model sees; use a template with "
                f"{{% generation %}} marks",
            )
        if not after.startswith(before):
            raise RecordError(
                "template",
                f"the chat template does not open message {number} as its generation prompt does, "
                f"so its start cannot be known; use a template with {{% generation %}} marks",
            )


def _fields(rendering: Rendering) -> tuple[str, list[Span], list[int] | None]:
    return rendering.text, rendering.generated, rendering.starts


def _turns_of(rendering: Rendering, answers: Sequence[int]) -> list[int]:
    """The number of the message that each marked span belongs to."""
    if len(rendering.generated) == len(answers):
        return list(answers)
    starts = rendering.starts
    if starts is None:
        raise RecordError(
            "template",
            "the chat template's generation marks cannot be told apart by message, so that one "
            "of them could be trained alone",
        )
    turns = []
    for start, _ in rendering.generated:
        turns.append(max(number for number, first in enumerate(starts) if first <= start))
    return turns


def _opening(rendered: str, content: str) -> str:
    """What stands before the text of a conversation's first message.

    Few templates render a generation prompt alone, so the text itself is looked for.
    """
    start = rendered.find(content.strip())
    if start < 0 or not content.strip():
        raise RecordError(
            "template", "it starts with an assistant message that cannot be found in its rendering"
        )
    return rendered[:start]
