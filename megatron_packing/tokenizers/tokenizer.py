# SPDX-License-Identifier: Apache-2.0
"""Finds tokenizers in files, or by name, and holds what worker processes need of them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from megatron_packing.errors import InputError, missing
from megatron_packing.tokenizers.folder import FolderFacts, read_folder
from megatron_packing.tokenizers.text_tokenizer import (
    HuggingFaceTokenizer,
    RankTokenizer,
    TextTokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Megatron's IndexedDataset.DType.optimal_dtype draws the line here.
_UINT16_VOCABULARY = 65500

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"),
    *("<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    *("<|image|>", *(f"<|reserved_special_token_{number}|>" for number in range(2, 246))),
)


@dataclass(frozen=True, slots=True)
class _RankFamily:
    """What a tiktoken file does not say: it holds ranks alone."""

    name: str
    pattern: str
    special: tuple[str, ...]
    end_token: str
    bos_token: str | None = None
    composes: bool = False
    """Whether texts are brought into NFC first."""


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


_BESIDE_A_TOKENIZER = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("config.json", "generation_config.json", "vocab.json"),
)
_FILES_OF_A_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tekken.json"),
    *("vocab.json", "vocab.txt", "spiece.model"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSource:
    """A tokenizer as content, which goes to worker processes and other machines as it is."""

    kind: Literal["tokenizer.json", "tiktoken", "tekken"]
    content: str
    """The text of the file."""
    name: str
    """What the user called it."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """``bos_token``, ``eos_token`` and so on, for templates."""
    chat_template: str | None = None
    named_templates: dict[str, str] = field(default_factory=dict)
    """Its other chat templates by name; ``tool_use`` is for conversations with tools."""
    text_prefix: str = ""
    """What is put before a plain text: SentencePiece's first space."""

    @property
    def sha256(self) -> str:
        """A digest of the content."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def open(self) -> TextTokenizer:
        """Load it.

        Raises:
            InputError: The content is not what it should be.
        """
        try:
            if self.kind == "tiktoken":
                return _open_tiktoken(self.content)
            if self.kind == "tekken":
                return _open_tekken(self.content)
            return HuggingFaceTokenizer(self.content)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the tokenizer {self.name!r} could not be loaded ({_first_line(error)}); give "
                f"a tokenizer.json, a tekken.json, a tiktoken file or a SentencePiece model"
            ) from error


def find_tokenizer(path_or_name: str) -> TokenizerSource:
    """Find a tokenizer.

    Args:
        path_or_name: A Hugging Face folder; a ``tokenizer.json``; a ``tekken.json``; a tiktoken
            file of Llama 3, Qwen or GPT-2; a SentencePiece model; or the name of a model that
            was downloaded from the hub. Nothing is downloaded here.

    Raises:
        InputError: There is none, or it cannot be used.
    """
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return _from_file(path, path_or_name)
    # A name on the hub is "name" or "owner/name"; anything else was meant as a path.
    if not path.is_dir() and (path_or_name.count("/") > 1 or path_or_name.startswith((".", "~"))):
        raise InputError(
            f"the tokenizer {path_or_name!r} could not be loaded: there is no such file or folder"
        )
    file = path / "tokenizer.json"
    if file.is_file():
        facts = read_folder(path)
        source = _from_json(_text_of(file), path_or_name, facts)
        # Where its class decides what it does, only transformers knows.
        if source is not None and facts.names_ends and not facts.has_own_code:
            return source
    if path.is_dir():
        _check_holds_tokenizer(path, path_or_name)
    return _from_transformers(path_or_name)


def _check_holds_tokenizer(folder: Path, name: str) -> None:
    """Refuse a folder whose own folders hold the tokenizer."""
    if any((folder / file).exists() for file in (*_FILES_OF_A_TOKENIZER, "config.json")):
        return
    inner = sorted(
        one
        for one in folder.iterdir()
        if any((one / file).is_file() for file in _FILES_OF_A_TOKENIZER)
    )
    if inner:
        more = f" or one of {len(inner) - 1:,} others" if len(inner) > 1 else ""
        raise InputError(
            f"the tokenizer {name!r} is a folder without a tokenizer's files; "
            f"they are in its folder '{inner[0]}'{more}: give that"
        )


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The narrowest dtype that Megatron would store this vocabulary in."""
    return np.dtype(np.uint16) if vocabulary_size < _UINT16_VOCABULARY else np.dtype(np.int32)


def find_recorded_forms(path_or_name: str) -> Iterator[TokenizerSource]:
    """Find what a corpus of this tokenizer may have recorded, whose contents differ.

    First what ``find_tokenizer`` finds, then what transformers makes of a folder, which earlier
    versions recorded.

    Raises:
        InputError: There is none, or it cannot be used.
    """
    source = find_tokenizer(path_or_name)
    yield source
    if Path(path_or_name).is_dir():
        try:
            other = _from_transformers(path_or_name)
        except InputError:
            return
        if other.sha256 != source.sha256:
            yield other


def _from_file(path: Path, name: str) -> TokenizerSource:
    content = path.read_bytes()
    try:
        text = content.decode("ascii" if not content.lstrip().startswith(b"{") else "utf-8")
    except UnicodeDecodeError:
        return _from_sentencepiece(path, name)
    if not text.lstrip().startswith("{"):
        try:
            ranks = _read_ranks(text)
        except ValueError as error:
            raise InputError(
                f"the tokenizer {name!r} is neither JSON nor a tiktoken file ({error}); give a "
                f"tokenizer.json, a tekken.json, a tiktoken file or a SentencePiece model"
            ) from error
        family = _family(ranks, name)
        special = {"eos_token": family.end_token}
        if family.bos_token:
            special["bos_token"] = family.bos_token
        return TokenizerSource(kind="tiktoken", content=text, name=name, special_tokens=special)
    if _is_tekken(text, name):
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        return TokenizerSource(kind="tekken", content=text, name=name, special_tokens=special)
    if path.name in _BESIDE_A_TOKENIZER and "model" not in _object_of(text):
        raise InputError(
            f"the tokenizer {name!r} is a file that describes a tokenizer and does not hold it; "
            f"give its folder '{path.parent}'"
        )
    facts = read_folder(path.parent)
    source = _from_json(text, name, facts)
    if source is None:
        named = ", ".join(facts.other_tokens(json.loads(text))[:5])
        raise InputError(
            f"the files beside the tokenizer {name!r} name tokens that it has not, or has "
            f"otherwise ({named}); give the folder, or copy the file to a folder of its own"
        )
    return source


def _object_of(text: str) -> dict[str, Any]:
    """A JSON object; an empty one where the text is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _from_json(text: str, name: str, facts: FolderFacts) -> TokenizerSource | None:
    """A ``tokenizer.json``, which is read as it is; None if files beside it say otherwise."""
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the tokenizer {name!r} is not JSON ({error}); give a tokenizer.json"
        ) from error
    if not isinstance(description, dict):
        raise InputError(f"the tokenizer {name!r} is no JSON object; give a tokenizer.json")
    if facts.other_tokens(description):
        return None
    named = dict(facts.chat_templates)
    return TokenizerSource(
        kind="tokenizer.json",
        content=text,
        name=name,
        special_tokens=facts.special_tokens,
        chat_template=named.pop("default", None),
        named_templates=named,
    )


def _from_sentencepiece(path: Path, name: str) -> TokenizerSource:
    try:
        from megatron_packing.tokenizers.sentencepiece_model import read_sentencepiece

        model = read_sentencepiece(path)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    except Exception as error:
        raise InputError(
            f"the tokenizer {name!r} is neither JSON, nor a tiktoken file, nor a SentencePiece "
            f"model ({_first_line(error)}); give one of these"
        ) from error
    return TokenizerSource(
        kind="tokenizer.json",
        content=model.tokenizer_json,
        name=name,
        special_tokens=model.special_tokens,
        text_prefix=model.text_prefix,
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the tokenizer {path} cannot be read ({error})") from error


def _missing(error: ModuleNotFoundError) -> InputError:
    return missing("this tokenizer", str(error.name), "tokenize")


def _from_transformers(path_or_name: str) -> TokenizerSource:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses torch here
    try:
        from transformers import AutoTokenizer
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    except ImportError as error:
        raise InputError(
            f"transformers, which reads the tokenizer {path_or_name!r}, cannot be imported "
            f"({_first_line(error)}); mend its installation"
        ) from error
    logging.set_verbosity_error()
    try:
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(
            path_or_name, local_files_only=True
        )
    except Exception as error:
        raise InputError(
            f"the tokenizer {path_or_name!r} could not be loaded ({_first_line(error)}); give a "
            f"folder with a tokenizer.json, a tokenizer's file, or the name of a model that was "
            f"downloaded (hf download NAME)"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer {path_or_name!r} is a slow one, which tells no character offsets; "
            f"convert it to a tokenizer.json"
        )
    named = tokenizer.chat_template
    named = dict(named) if isinstance(named, dict) else {"default": named}
    template = named.pop("default", None)
    special = {
        name: str(token)
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }
    return TokenizerSource(
        kind="tokenizer.json",
        content=tokenizer.backend_tokenizer.to_str(),
        name=path_or_name,
        special_tokens=special,
        chat_template=template,
        named_templates=named,
    )


def _read_ranks(text: str) -> dict[bytes, int]:
    lines = (line.split() for line in text.splitlines() if line)
    return {base64.b64decode(piece): int(rank) for piece, rank in lines}


def _family(ranks: dict[bytes, int], name: str) -> _RankFamily:
    family = _RANK_FAMILIES.get(len(ranks))
    if family is None:
        known = ", ".join(f"{count:,} ({one.name})" for count, one in _RANK_FAMILIES.items())
        raise InputError(
            f"the tokenizer {name!r} is a tiktoken file of {len(ranks):,} ranks, whose pattern and "
            f"special tokens are not known, only those of {known}; give a tokenizer.json"
        )
    return family


def _open_tiktoken(text: str) -> RankTokenizer:
    ranks = _read_ranks(text)
    family = _family(ranks, "")
    special = {name: len(ranks) + number for number, name in enumerate(family.special)}
    return RankTokenizer(family.pattern, ranks, special, family.composes)


def _is_tekken(text: str, name: str) -> bool:
    try:
        config = json.loads(text).get("config")
    except ValueError as error:
        raise InputError(
            f"the tokenizer {name!r} begins like JSON and is none ({error}); give a tokenizer.json "
            f"or a tekken.json"
        ) from error
    return isinstance(config, dict) and "default_num_special_tokens" in config


def _open_tekken(text: str) -> RankTokenizer:
    """As ``mistral_common.tokens.tokenizers.tekken``: special tokens first, then the ranks."""
    description = json.loads(text)
    config = description["config"]
    num_special = config["default_num_special_tokens"]
    named = description.get("special_tokens")
    if not named:  # files before version 7 leave them to the library
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        named = Tekkenizer.DEPRECATED_SPECIAL_TOKENS
    special = {token["token_str"]: token["rank"] for token in named}
    special |= {f"<SPECIAL_{rank}>": rank for rank in range(len(named), num_special)}
    used = description["vocab"][: config["default_vocab_size"] - num_special]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] + num_special for entry in used}
    return RankTokenizer(config["pattern"], ranks, special)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
