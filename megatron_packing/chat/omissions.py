# SPDX-License-Identifier: Apache-2.0
"""Finds what a chat template leaves out of a conversation."""

from __future__ import annotations

import re

from megatron_packing.chat.message_form import THOUGHTS, function_of
from megatron_packing.chat.message_parts import LocatedParts, Part, find_parts, is_written_whole
from megatron_packing.chat.template import ChatTemplate, Rendering
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Conversation, Message


def holds(message: Message, rendered: str) -> bool:
    """Whether a text contains everything that a message says, apart from white space."""
    said = [message["content"], *(message.get(field) for field in THOUGHTS)]
    said += [function_of(call)["name"] for call in message.get("tool_calls") or []]
    if all(text.strip() in rendered for text in said if isinstance(text, str)):
        return True
    without_space = "".join(rendered.split())
    return all("".join(text.split()) in without_space for text in said if isinstance(text, str))


def check_holds(number: int, message: Message, rendered: str) -> None:
    """Refuse a template that leaves out or changes what a trained message says.

    Args:
        number: The number of the message in its conversation.
        message: The message.
        rendered: The text of its turn.

    Raises:
        RecordError: The text does not contain everything that the message says.
    """
    if not holds(message, rendered):
        raise _leaves_out(number, message)


def check_written(
    template: ChatTemplate,
    conversation: Conversation,
    turns: list[int],
    text: str,
    located: LocatedParts | None,
    allow_other_template: bool,
) -> tuple[str, ...]:
    """Find the parts of a conversation that its text does not contain.

    Thoughts of untrained messages are only counted, because many templates omit earlier thoughts
    intentionally, in use as in training.

    Args:
        template: The template that rendered the conversation.
        conversation: The conversation.
        turns: The numbers of its trained messages.
        text: Its text.
        located: The offsets of its parts; None if they are not known yet.
        allow_other_template: Count omissions of untrained parts instead of refusing them.

    Returns:
        Notes to count.

    Raises:
        RecordError: A part of a trained message is missing, or another part is missing and
            ``allow_other_template`` is False.
    """
    unread = sorted(set(conversation.template_arguments) - template.reads)
    left_out = [f"argument {name}" for name in unread]
    notes = set()
    if located is None and not is_written_whole(conversation, text):
        located = find_parts(template, conversation, Rendering(text))
    for part in located.missing() if located is not None else ():
        if part.message in turns:
            raise _leaves_out(part.message, conversation.messages[part.message])
        if part.kind == "thoughts":
            notes.add("thoughts that are not trained left out by the chat template")
        else:
            left_out.append(_name(part, conversation))
    if left_out and not allow_other_template:
        raise RecordError(
            "left out",
            f"the chat template does not write its {left_out[0]}; use a template that does, or "
            f"accept this with --allow-other-template",
        )
    notes |= {f"left out by the chat template: {re.sub(' [0-9]+', '', one)}" for one in left_out}
    return tuple(sorted(notes))


def _leaves_out(number: int, message: Message) -> RecordError:
    who = "assistant message" if message["role"] == "assistant" else "message"
    return RecordError(
        "template",
        f"the chat template leaves out or changes part of {who} {number}; use a template that "
        f"keeps it",
    )


def _name(part: Part, conversation: Conversation) -> str:
    if part.message is None:
        return f"tool {part.text!r}"
    role = conversation.messages[part.message]["role"]
    if part.kind == "content":
        return f"{role} message {part.message}"
    return f"{part.kind} {part.text!r}"
