# SPDX-License-Identifier: Apache-2.0
"""Finds placeholders of images, audio and video in the texts of messages.

Such data sets write ``<image>`` (LLaVA), ``<|image_pad|>`` (Qwen-VL), ``<|image|>`` (Llama 3.2),
``<start_of_image>`` (Gemma 3) or ``[IMG]`` (Pixtral) where a model is given an image. The same
words also stand in web pages and in code, so they are counted and not refused.
"""

from __future__ import annotations

import re

from megatron_packing.schemas.conversations import Conversation

PHRASE = "media placeholders that are used as plain text"
"""What documents with placeholders are counted under."""

_PLACEHOLDER = re.compile(
    r"<(?:image|video|audio|speech)(?:_?[0-9]+|_pad|_placeholder|_soft_token)?>"
    r"|<\|(?:image|video|audio|vision)(?:_[0-9]+|_pad|_start|_end|_bos|_eos)?\|>"
    r"|<(?:start|end)_of_(?:image|audio)>|<img_context>|\[img(?:_break|_end)?\]",
    re.IGNORECASE,
)


def placeholder_notes(conversation: Conversation) -> tuple[str, ...]:
    """A note for each placeholder that the messages of a conversation have.

    Numbers are left out, so that ``<image_1>`` and ``<image_2>`` are counted as one.
    """
    found: dict[str, None] = {}
    for message in conversation.messages:
        content = message["content"] or ""
        if "<" in content or "[" in content:
            for match in _PLACEHOLDER.finditer(content):
                found[re.sub("[0-9]+", "N", match[0])] = None
    return tuple(f"{PHRASE}: {placeholder}" for placeholder in found)
