# SPDX-License-Identifier: Apache-2.0
"""A rendered conversation and its trained spans."""

from __future__ import annotations

from dataclasses import dataclass, field

from megatron_packing.chat.template import Span


@dataclass(frozen=True, slots=True)
class RenderedConversation:
    """The text of a conversation and its trained spans."""

    text: str
    trained: list[Span]
    """The trained spans, in order."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """The number of each trained assistant message, and the offset at which its turn ends; empty if
    all messages are trained."""
    notes: tuple[str, ...] = ()
    """Notes to count; see ``EncodedBatch.notes``."""
