# SPDX-License-Identifier: Apache-2.0
"""Finds placeholders for images, audio and video in the texts of messages.

Multimodal data sets have ``<image>`` (LLaVA), ``<|image_pad|>`` (Qwen-VL), ``<|image|>`` (Llama
3.2), ``<start_of_image>`` (Gemma 3) or ``[IMG]`` (Pixtral) where a model gets an image. Web pages
and code contain the same words, so they are counted, not refused.
"""

from __future__ import annotations

import re

from megatron_packing.schemas.conversations import Conversation

PHRASE = "media placeholders that are used as plain text"
"""The phrase under which documents with placeholders are counted."""

_PLACEHOLDER = re.compile(
    r"<(?:image|video|audio|speech)(?:_?[0-9]+|_pad|_placeholder|_soft_token)?>"
    r"|<\|(?:image|video|audio|vision)(?:_[0-9]+|_pad|_start|_end|_bos|_eos)?\|>"
    r"|<(?:start|end)_of_(?:image|audio)>|<img_context>|\[img(?:_break|_end)?\]",
    re.IGNORECASE,
)


def placeholder_notes(conversation: Conversation) -> tuple[str, ...]:
    """Return a note for each placeholder in the messages of a conversation.

    Numbers are replaced, so that ``<image_1>`` and ``<image_2>`` are counted as one.
    """
    found: dict[str, None] = {}
    for message in conversation.messages:
        content = message["content"] or ""
        if "<" in content or "[" in content:
            for match in _PLACEHOLDER.finditer(content):
                found[re.sub("[0-9]+", "N", match[0])] = None
    return tuple(f"{PHRASE}: {placeholder}" for placeholder in found)
