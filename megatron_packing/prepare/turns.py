"""Finds what of a rendered conversation is trained.

Trained is what the model itself would have written: the text of each assistant turn and the token
that ends it. Where the template marks that with ``{% generation %}``, the marks are used. Elsewhere
a turn is what stands between the rendering of the conversation before it, with the generation
prompt, and the rendering that ends with it, less what follows the tokens that end it (ChatML's line
break after ``<|im_end|>`` is written by the template, not by the model). Both must
be prefixes of the whole: a template that renders a turn differently once more follows it, such as
those that drop earlier thoughts, would train on what the model never sees, and is refused.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from megatron_packing.prepare.chat_template import ChatTemplate, Rendering, Span
from megatron_packing.prepare.conversations import Conversation, Message
from megatron_packing.prepare.records import RecordError
from megatron_packing.prepare.text_tokenizer import any_of

# Fields in which an assistant message thinks, beside its content.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")

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
        self._tokens = tuple(special_tokens)
        self._special = any_of(self._tokens)
        self._prompt = self._generation_prompt()
        self._openers = frozenset(self._special.findall(self._prompt))

    def render(self, conversation: Conversation) -> RenderedConversation:
        """Render a conversation and find what of it is trained.

        Raises:
            RecordError: The template refuses the conversation, a turn cannot be found in it, or
                nothing would be trained.
        """
        turns = self._trained_turns(conversation)
        for turn in turns:
            message = conversation.messages[turn]
            if message["role"] != "assistant":
                continue
            if not message["content"].strip() and not any(
                map(message.get, ("tool_calls", *_THOUGHTS))
            ):
                raise RecordError("empty answer", f"its assistant message {turn} is empty")
        if self._loss_on == "all":
            return self._all_but(conversation, set(turns))
        if self._template.has_marks:
            return self._from_marks(conversation, turns)
        return self._from_prefixes(conversation, turns)

    def _generation_prompt(self) -> str:
        """What opens an answer; empty where that is not known."""
        asked = [{"role": "user", "content": "Hi"}]
        try:
            before = self._template.render(asked, None, prompt=False)
            after = self._template.render(asked, None, prompt=True)
        except RecordError:
            return ""
        return after.removeprefix(before) if after.startswith(before) else ""

    def _trained_turns(self, conversation: Conversation) -> list[int]:
        """The numbers of the messages that are trained."""
        pairs = list(zip(conversation.messages, conversation.trained, strict=True))
        answers = [n for n, (message, _) in enumerate(pairs) if message["role"] == "assistant"]
        if not answers:
            raise RecordError(
                "no assistant message", "it has no assistant message, so nothing is trained"
            )
        if self._loss_on == "all":
            answers = list(range(len(pairs)))
        elif self._loss_on == "last-assistant":
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
        messages, tools = conversation.messages, conversation.tools
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        rendering = self._template.render_marked(messages, tools)
        owners = answers
        if not _each_holds_its_own(rendering, messages, answers):
            rendering = self._template.render_watched(messages, tools)
            owners = _owners(rendering)
        text = rendering.text
        pairs = list(zip(owners, rendering.generated, strict=True))
        spans: list[Span] = []
        for turn in turns:
            own = [span for owner, span in pairs if owner == turn]
            self._check_said(turn, messages[turn], "".join(text[a:b] for a, b in own))
            if not own:
                raise RecordError(
                    "template", f"the chat template marks nothing of assistant message {turn}"
                )
            start, stop = own.pop()
            spans += [*own, (start, self._with_end_token(text, stop))]
        return RenderedConversation(text, [span for span in spans if span[0] < span[1]])

    def _with_end_token(self, text: str, stop: int) -> int:
        """Take in the token that ends the turn where the marks leave it out."""
        token = self._special.match(text, stop)
        if token is None or token[0] in self._openers:
            return stop
        return stop if text[:stop].rstrip().endswith(self._tokens) else token.end()

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
                before = self._opening(after, str(messages[0]["content"]))
            self._check_prefix(text, after, before, turn)
            end = self._end_of_turn(messages[turn], text, len(before), len(after))
            spans.append((len(before), end))
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
        rendering = self._template.render_watched(messages, tools)
        text, starts = rendering.text, rendering.starts
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
            spans.append((start, self._end_of_turn(messages[turn], text, start, end)))
        return self._checked(conversation, turns, text, spans)

    def _checked(
        self, conversation: Conversation, turns: list[int], text: str, spans: list[Span]
    ) -> RenderedConversation:
        for turn, (start, end) in zip(turns, spans, strict=True):
            self._check_said(turn, conversation.messages[turn], text[start:end])
        return RenderedConversation(text, spans)

    @staticmethod
    def _check_said(turn: int, message: Message, rendered: str) -> None:
        """Refuse templates that leave out or change what the assistant said."""
        if not _holds(message, rendered):
            raise RecordError(
                "template",
                f"the chat template leaves out or changes part of assistant message {turn}; use "
                f"one that keeps it",
            )

    def _end_of_turn(self, message: Message, text: str, start: int, stop: int) -> int:
        """Where the tokens that end a turn end, without what the template writes after them.

        They follow the content, each directly on the one before. Where the content is not the last
        that is said, or not found as it is, they are all that stand at the end but for white space.
        Tokens that open the next turn are never among them.
        """
        content = message["content"].strip()
        place = -1 if message.get("tool_calls") else text.rfind(content, start, stop)
        if place >= 0 and content:
            place += len(content)
            found = list(self._special.finditer(text, place, stop))
            if found and not text[place : found[0].start()].strip():
                end = found[0].end()
                for token in found[1:]:
                    if token.start() != end or token[0] in self._openers:
                        break
                    end = token.end()
                return end
        end = stop
        for token in reversed(list(self._special.finditer(text, start, stop))):
            if text[token.end() : end].strip():
                break
            if token[0] not in self._openers:
                return token.end()
            end = token.start()
        return stop

    def _opening(self, rendered: str, content: str) -> str:
        """What stands before the text of a conversation's first message.

        Few templates render a generation prompt alone, so it is looked for, with the text after it.
        """
        found = re.escape(self._prompt) + r"\s*" + re.escape(content.strip())
        places = [place.start() for place in re.finditer(found, rendered)]
        if len(places) != 1 or not content.strip():
            raise RecordError(
                "template",
                "it starts with an assistant message whose place in its rendering is not certain",
            )
        return rendered[: places[0] + len(self._prompt)]

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


def _owners(rendering: Rendering) -> list[int]:
    """The number of the message that each marked span belongs to."""
    starts = rendering.starts
    if starts is None:
        raise RecordError(
            "template",
            "the chat template's generation marks do not hold each assistant message, and which of "
            "them belong to which message cannot be told",
        )
    return [bisect_right(starts, start) - 1 for start, _ in rendering.generated]


def _each_holds_its_own(rendering: Rendering, messages: list[Message], answers: list[int]) -> bool:
    spans = rendering.generated
    return len(spans) == len(answers) and all(
        _holds(messages[answer], rendering.text[start:stop])
        for answer, (start, stop) in zip(answers, spans, strict=True)
    )


def _holds(message: Message, rendered: str) -> bool:
    """Whether a text holds all that a message says, white space apart."""
    said = [message["content"], *(message.get(field) for field in _THOUGHTS)]
    calls = message.get("tool_calls") or []
    said += [call.get("function", call)["name"] for call in calls]
    if all(text.strip() in rendered for text in said if isinstance(text, str)):
        return True
    without_space = "".join(rendered.split())
    return all("".join(text.split()) in without_space for text in said if isinstance(text, str))
