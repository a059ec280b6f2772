# SPDX-License-Identifier: Apache-2.0
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
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from megatron_packing.chat.marked_spans import spans_of_turns
from megatron_packing.chat.message_parts import Part, PartPlaces, find_parts, is_written_whole
from megatron_packing.chat.template import THOUGHTS, ChatTemplate, Rendering, Span
from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Conversation, Message
from megatron_packing.tokenizers.text_tokenizer import any_of

WHERE_MARKED = "such as the files trl/chat_templates/NAME_training.jinja of the package trl"
"""Where templates with generation marks come from."""

LossOn = Literal["assistant", "last-assistant", "all"]

_OPENED_THOUGHT = re.compile(r"(<[^<>\s]+>)\s*$")


@dataclass(frozen=True, slots=True)
class RenderedConversation:
    """A conversation as text, and what of it is trained."""

    text: str
    trained: list[Span]
    ends: list[tuple[int, int]] = field(default_factory=list)
    """The number of each trained assistant message and the character that its turn ends before;
    not known where everything is trained."""
    notes: tuple[str, ...] = ()
    """What is to be counted about it."""


class TurnFinder:
    """Renders conversations and finds their trained spans."""

    def __init__(
        self,
        template: ChatTemplate,
        special_tokens: Iterable[str],
        loss_on: LossOn = "assistant",
        allow_other_template: bool = False,
    ) -> None:
        """Look at what opens an answer.

        Args:
            template: Renders.
            special_tokens: Of the tokenizer.
            loss_on: What is trained.
            allow_other_template: Count what the template leaves out of messages that are not
                trained, of tools and of a record's arguments, in place of refusing the record.
        """
        self._template = template
        self._loss_on = loss_on
        self._allow_other_template = allow_other_template
        self._tokens = tuple(special_tokens)
        self._special = any_of(self._tokens)
        self._prompt, self._closing = self._generation_prompt()
        self._openers = frozenset(self._special.findall(self._prompt))

    def render(self, conversation: Conversation) -> RenderedConversation:
        """Render a conversation and find what of it is trained.

        Raises:
            RecordError: The template refuses the conversation, leaves something out, a turn cannot
                be found in it, or nothing would be trained.
        """
        turns = self._trained_turns(conversation)
        for turn in turns:
            message = conversation.messages[turn]
            if message["role"] != "assistant":
                continue
            said = (message["content"] or "").strip()
            if not said and not any(map(message.get, ("tool_calls", *THOUGHTS))):
                raise RecordError("empty answer", f"its assistant message {turn} is empty")
        if self._loss_on != "all" and self._template.has_marks:
            found, places = self._from_marks(conversation, turns)
        else:
            all_but = self._loss_on == "all"
            find = self._all_but if all_but else self._from_prefixes
            found, places = find(conversation, turns), None
        notes = self._check_written(conversation, turns, found.text, places)
        return RenderedConversation(found.text, found.trained, found.ends, notes)

    def _generation_prompt(self) -> tuple[str, str]:
        """What opens an answer, empty where that is not known, and what ends a conversation.

        Phi 3 writes an end of the text wherever no prompt is asked for, after half a conversation
        too.
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
        """The text of the first messages, without what ends a conversation."""
        text = self._template.render(
            conversation.messages[:number],
            conversation.tools,
            prompt=prompt,
            arguments=conversation.template_arguments,
        )
        return text if prompt else text.removesuffix(self._closing)

    def _whole(self, conversation: Conversation) -> str:
        return self._template.render(
            conversation.messages,
            conversation.tools,
            prompt=False,
            arguments=conversation.template_arguments,
        )

    def _check_written(
        self,
        conversation: Conversation,
        turns: list[int],
        text: str,
        places: PartPlaces | None,
    ) -> tuple[str, ...]:
        """Find what a record says and its text does not.

        Thoughts of turns that are not trained are counted: many templates leave earlier thoughts
        out on purpose, in use as in training.
        """
        unread = sorted(set(conversation.template_arguments) - self._template.reads)
        left_out = [f"argument {name}" for name in unread]
        notes = set()
        if places is None and not is_written_whole(conversation, text):
            places = find_parts(self._template, conversation, Rendering(text))
        for part in places.missing() if places is not None else ():
            if part.message in turns:
                raise self._leaves_out(part.message, conversation.messages[part.message])
            if part.kind == "thoughts":
                notes.add("thoughts that are not trained left out by the chat template")
            else:
                left_out.append(_name(part, conversation))
        if left_out and not self._allow_other_template:
            raise RecordError(
                "left out",
                f"the chat template does not write its {left_out[0]}; use one that does, or go on "
                f"without with --allow-other-template",
            )
        notes |= {
            f"left out by the chat template: {re.sub(' [0-9]+', '', one)}" for one in left_out
        }
        return tuple(sorted(notes))

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

    def _all_but(self, conversation: Conversation, turns: list[int]) -> RenderedConversation:
        """Train everything but the messages whose own flags forbid it."""
        text = self._whole(conversation)
        spans: list[Span] = []
        start = 0
        for number in range(len(conversation.messages)):
            if number in turns:
                continue
            before = self._prefix(conversation, number) if number else ""
            after = self._prefix(conversation, number + 1)
            self._check_prefix(text, after, before, number)
            spans.append((start, len(before)))
            start = len(after)
        spans.append((start, len(text)))
        return RenderedConversation(text, [span for span in spans if span[0] < span[1]])

    def _from_marks(
        self, conversation: Conversation, turns: list[int]
    ) -> tuple[RenderedConversation, PartPlaces | None]:
        messages, tools = conversation.messages, conversation.tools
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        rendering = self._template.render_marked(messages, tools, conversation.template_arguments)
        text, generated = rendering.text, rendering.generated
        places = None
        spans: list[Span] = []
        if turns == answers and _each_holds_its_own(rendering, messages, answers):
            # All that is marked is trained, whosever it is.
            of_turns = {turn: [span] for turn, span in zip(answers, generated, strict=True)}
        else:
            places = find_parts(self._template, conversation, rendering)
            of_turns, spans = spans_of_turns(generated, places, answers, turns)
        ends: list[tuple[int, int]] = []
        for turn, own in of_turns.items():
            self._check_said(turn, messages[turn], "".join(text[a:b] for a, b in own))
            if not own:
                raise RecordError(
                    "template", f"the chat template marks nothing of assistant message {turn}"
                )
            start, stop = own[-1]
            ends.append((turn, self._with_end_token(text, stop)))
            spans += [*own[:-1], (start, ends[-1][1])]
        spans = sorted(span for span in spans if span[0] < span[1])
        return RenderedConversation(text, spans, ends), places

    def _with_end_token(self, text: str, stop: int) -> int:
        """Take in the token that ends the turn where the marks leave it out."""
        token = self._special.match(text, stop)
        if token is None or token[0] in self._openers:
            return stop
        return stop if text[:stop].rstrip().endswith(self._tokens) else token.end()

    def _from_prefixes(self, conversation: Conversation, turns: list[int]) -> RenderedConversation:
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
        return self._checked(conversation, turns, text, spans)

    def _checked(
        self, conversation: Conversation, turns: list[int], text: str, spans: list[Span]
    ) -> RenderedConversation:
        for turn, (start, end) in zip(turns, spans, strict=True):
            message, rendered = conversation.messages[turn], text[start:end]
            opened = _OPENED_THOUGHT.search(text[max(0, start - 64) : start])
            if opened and (message["content"] or "").lstrip().startswith(opened[1]):
                rendered = opened[0] + rendered  # the prompt has what the answer begins with
            self._check_said(turn, message, rendered)
        ends = [(turn, end) for turn, (_, end) in zip(turns, spans, strict=True)]
        return RenderedConversation(text, spans, ends)

    @classmethod
    def _check_said(cls, turn: int, message: Message, rendered: str) -> None:
        """Refuse templates that leave out or change what the assistant said."""
        if not _holds(message, rendered):
            raise cls._leaves_out(turn, message)

    @staticmethod
    def _leaves_out(turn: int, message: Message) -> RecordError:
        who = "assistant message" if message["role"] == "assistant" else "message"
        return RecordError(
            "template",
            f"the chat template leaves out or changes part of {who} {turn}; use one that keeps it",
        )

    def _end_of_turn(self, message: Message, text: str, start: int, stop: int) -> int:
        """Where the tokens that end a turn end, without what the template writes after them.

        They follow the content, each directly on the one before. Where the content is not the last
        that is said, or not found as it is, they are all that stand at the end but for white space.
        Tokens that open the next turn are never among them.
        """
        content = (message["content"] or "").strip()
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
                f"{{% generation %}} marks, {WHERE_MARKED}",
            )
        if not after.startswith(before):
            raise RecordError(
                "template",
                f"the chat template does not open message {number} as its generation prompt does, "
                f"so its start cannot be known; use a template with {{% generation %}} marks, "
                f"{WHERE_MARKED}",
            )


def _each_holds_its_own(rendering: Rendering, messages: list[Message], answers: list[int]) -> bool:
    spans = rendering.generated
    return len(spans) == len(answers) and all(
        _holds(messages[answer], rendering.text[start:stop])
        for answer, (start, stop) in zip(answers, spans, strict=True)
    )


def _holds(message: Message, rendered: str) -> bool:
    """Whether a text holds all that a message says, white space apart."""
    said = [message["content"], *(message.get(field) for field in THOUGHTS)]
    calls = message.get("tool_calls") or []
    said += [call.get("function", call)["name"] for call in calls]
    if all(text.strip() in rendered for text in said if isinstance(text, str)):
        return True
    without_space = "".join(rendered.split())
    return all("".join(text.split()) in without_space for text in said if isinstance(text, str))


def _name(part: Part, conversation: Conversation) -> str:
    if part.message is None:
        return f"tool {part.text!r}"
    role = conversation.messages[part.message]["role"]
    if part.kind == "content":
        return f"{role} message {part.message}"
    return f"{part.kind} {part.text!r}"
