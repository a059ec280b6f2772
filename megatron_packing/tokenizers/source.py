# SPDX-License-Identifier: Apache-2.0
"""A tokenizer as content, which is sent to worker processes and other machines."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from megatron_packing.errors import InputError
from megatron_packing.tokenizers.rank_files import open_tekken, open_tiktoken
from megatron_packing.tokenizers.text_tokenizer import HuggingFaceTokenizer, TextTokenizer

# The limit of Megatron's IndexedDataset: DType.optimal_dtype.
_UINT16_VOCABULARY = 65500


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSource:
    """The content of a tokenizer, and what the files beside it say."""

    kind: Literal["tokenizer.json", "tiktoken", "tekken"]
    content: str
    """The text of the file."""
    name: str
    """The path or name that the user gave."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """``bos_token``, ``eos_token`` and so on, for templates."""
    chat_template: str | None = None
    """The default chat template; None if there is none."""
    named_templates: dict[str, str] = field(default_factory=dict)
    """Other chat templates by name; ``tool_use`` is for conversations with tools."""
    text_prefix: str = ""
    """Text to put before a plain text: the first space of SentencePiece."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the content."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def open(self) -> TextTokenizer:
        """Load the tokenizer.

        Raises:
            InputError: The content is not a valid tokenizer.
        """
        try:
            if self.kind == "tiktoken":
                return open_tiktoken(self.content)
            if self.kind == "tekken":
                return open_tekken(self.content)
            return HuggingFaceTokenizer(self.content)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the tokenizer {self.name!r} could not be loaded ({first_line(error)}); give "
                f"a tokenizer.json, a tekken.json, a tiktoken file or a SentencePiece model"
            ) from error


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Return the narrowest dtype in which Megatron stores tokens of this vocabulary."""
    return np.dtype(np.uint16) if vocabulary_size < _UINT16_VOCABULARY else np.dtype(np.int32)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has no message."""
    return (str(error).strip() or repr(error)).splitlines()[0]
