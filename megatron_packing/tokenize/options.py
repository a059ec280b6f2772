# SPDX-License-Identifier: Apache-2.0
"""Options that decide the tokens and the loss mask of a record."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from megatron_packing.chat.turns import LossOn
from megatron_packing.schemas.record_names import RecordNames
from megatron_packing.tokenizers.source import TokenizerSource

# A field that is added here is a field of TokenizeOptions and EncoderOptions, and an unfinished run
# can be resumed only with the same value. Its flag is in commands/tokenize.py.


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingOptions:
    """How records become tokens, apart from the tokenizer and the chat template."""

    allow_other_template: bool = False
    """Accept, and count, templates that leave out untrained parts of a record or that end answers
    without a special token."""
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """Variables for the template, such as ``enable_thinking``."""
    date: str | None = None
    """The date that templates write as today, in ISO 8601; None is the day on which the run
    started."""
    loss_on: LossOn = "assistant"
    """Which messages are trained."""
    schema: str | None = None
    """One of ``SCHEMAS``; None detects the schema of each record from its fields."""
    names: RecordNames = field(default_factory=RecordNames)
    """The meaning of fields and roles with nonstandard names."""
    end_token: str | None = None
    """The token that ends a plain text; None is the tokenizer's ``eos_token``."""
    max_record_bytes: int = 1 << 24
    """The most bytes of a record, and of its rendered text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderOptions(EncodingOptions):
    """Everything that decides the tokens of a record."""

    tokenizer: TokenizerSource
    chat_template: str | None
    """The text of the template; None if there is none."""
    tool_template: str | None = None
    """The text of the template for conversations with tools; None uses ``chat_template``."""

    @classmethod
    def with_template(
        cls,
        options: EncodingOptions,
        tokenizer: TokenizerSource,
        chat_template: str | None,
        tool_template: str | None,
    ) -> EncoderOptions:
        """Add a tokenizer and its templates to options.

        Args:
            options: The other options; fields that are not of ``EncodingOptions`` are left out.
            tokenizer: Encodes texts.
            chat_template: The text of the template.
            tool_template: The text of the template for conversations with tools.
        """
        return cls(
            tokenizer=tokenizer,
            chat_template=chat_template,
            tool_template=tool_template,
            **{one.name: getattr(options, one.name) for one in fields(EncodingOptions)},
        )
