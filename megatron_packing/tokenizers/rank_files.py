# SPDX-License-Identifier: Apache-2.0
"""Reads files of ranked byte sequences: those of tiktoken, and Mistral's ``tekken.json``."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.tokenizers.text_tokenizer import RankTokenizer

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"),
    *("<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    *("<|image|>", *(f"<|reserved_special_token_{number}|>" for number in range(2, 246))),
)
TEKKEN_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
"""The special tokens of every ``tekken.json`` that templates use."""


@dataclass(frozen=True, slots=True)
class _RankFamily:
    """A tokenizer's pattern and special tokens, which its tiktoken file does not contain."""

    name: str
    pattern: str
    special: tuple[str, ...]
    end_token: str
    bos_token: str | None = None
    composes: bool = False
    """Whether texts are converted to NFC first."""


# By the number of ranks in the file.
_RANK_FAMILIES = {
    50_256: _RankFamily(
        "GPT-2",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        ("<|endoftext|>",),
        "<|endoftext|>",
    ),
    128_000: _RankFamily(
        "Llama 3",
        _WORDS + r"|\p{N}{1,3}" + _REST,
        _LLAMA3_SPECIAL,
        "<|end_of_text|>",
        "<|begin_of_text|>",
    ),
    151_643: _RankFamily(
        "Qwen 1 to 3",
        _WORDS + r"|\p{N}" + _REST,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|endoftext|>",
        composes=True,
    ),
}


def tiktoken_special_tokens(text: str, name: str) -> dict[str, str]:
    """Return ``eos_token`` and, if it has one, ``bos_token`` of a tiktoken file.

    Args:
        text: The content of the file.
        name: The name of the tokenizer, for messages.

    Raises:
        ValueError: The text is not a tiktoken file.
        InputError: The family of the file is not known.
    """
    family = _family(_read_ranks(text), name)
    special = {"eos_token": family.end_token}
    if family.bos_token:
        special["bos_token"] = family.bos_token
    return special


def open_tiktoken(text: str) -> RankTokenizer:
    """Load a tiktoken file of a known family.

    Raises:
        InputError: The family of the file is not known.
    """
    ranks = _read_ranks(text)
    family = _family(ranks, "")
    special = {name: len(ranks) + number for number, name in enumerate(family.special)}
    return RankTokenizer(family.pattern, ranks, special, family.composes)


def is_tekken(description: dict[str, Any]) -> bool:
    """Whether a JSON object is the content of a ``tekken.json``."""
    config = description.get("config")
    return isinstance(config, dict) and "default_num_special_tokens" in config


def open_tekken(text: str) -> RankTokenizer:
    """Load a ``tekken.json``.

    As in ``mistral_common.tokens.tokenizers.tekken``, special tokens come before the ranks.
    """
    description = json.loads(text)
    config = description["config"]
    num_special = config["default_num_special_tokens"]
    named = description.get("special_tokens")
    if not named:  # files before version 7 do not contain them
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        named = Tekkenizer.DEPRECATED_SPECIAL_TOKENS
    special = {token["token_str"]: token["rank"] for token in named}
    special |= {f"<SPECIAL_{rank}>": rank for rank in range(len(named), num_special)}
    used = description["vocab"][: config["default_vocab_size"] - num_special]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] + num_special for entry in used}
    return RankTokenizer(config["pattern"], ranks, special)


def _read_ranks(text: str) -> dict[bytes, int]:
    lines = (line.split() for line in text.splitlines() if line)
    return {base64.b64decode(piece): int(rank) for piece, rank in lines}


def _family(ranks: dict[bytes, int], name: str) -> _RankFamily:
    family = _RANK_FAMILIES.get(len(ranks))
    if family is None:
        known = ", ".join(f"{count:,} ({one.name})" for count, one in _RANK_FAMILIES.items())
        raise InputError(
            f"the tokenizer {name!r} is a tiktoken file of {len(ranks):,} ranks, whose pattern and "
            f"special tokens are unknown; known are files of {known}; give a tokenizer.json"
        )
    return family
