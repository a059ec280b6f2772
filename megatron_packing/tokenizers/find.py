# SPDX-License-Identifier: Apache-2.0
"""Finds tokenizers in files, in folders, or by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError, missing
from megatron_packing.tokenizers.folder import FolderFacts, read_folder, read_text
from megatron_packing.tokenizers.from_transformers import load_with_transformers
from megatron_packing.tokenizers.rank_files import (
    TEKKEN_SPECIAL,
    is_tekken,
    tiktoken_special_tokens,
)
from megatron_packing.tokenizers.source import TokenizerSource, first_line

_BESIDE_A_TOKENIZER = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("config.json", "generation_config.json", "vocab.json"),
)
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tekken.json"),
    *("vocab.json", "vocab.txt", "spiece.model"),
)


def find_tokenizer(path_or_name: str) -> TokenizerSource:
    """Find a tokenizer.

    Args:
        path_or_name: A Hugging Face folder; a ``tokenizer.json``; a ``tekken.json``; a tiktoken
            file of Llama 3, Qwen or GPT-2; a SentencePiece model; or the name of a model that
            was downloaded from the hub. Nothing is downloaded here.

    Raises:
        InputError: There is no such tokenizer, or it cannot be used.
    """
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return _from_file(path, path_or_name)
    # A name on the hub is "name" or "owner/name"; everything else is a path.
    if not path.is_dir() and (path_or_name.count("/") > 1 or path_or_name.startswith((".", "~"))):
        raise InputError(
            f"the tokenizer {path_or_name!r} could not be loaded: there is no such file or folder"
        )
    file = path / "tokenizer.json"
    if file.is_file():
        facts = read_folder(path)
        text = read_text(file)
        agrees = not facts.differing_tokens(_parse(text, path_or_name))
        # Otherwise the tokenizer depends on its Python class, which only transformers knows.
        if agrees and facts.names_ends and not facts.has_own_code:
            return _from_json(text, path_or_name, facts)
    if path.is_dir():
        _check_holds_tokenizer(path, path_or_name)
    return load_with_transformers(path_or_name)


def find_recorded_forms(path_or_name: str) -> Iterator[TokenizerSource]:
    """Find the contents that a corpus may have recorded for a tokenizer.

    The first is what ``find_tokenizer`` finds. The second, if it differs, is what transformers
    loads from a folder, which earlier versions recorded.

    Raises:
        InputError: There is no such tokenizer, or it cannot be used.
    """
    source = find_tokenizer(path_or_name)
    yield source
    if Path(path_or_name).is_dir():
        try:
            other = load_with_transformers(path_or_name)
        except InputError:
            return
        if other.sha256 != source.sha256:
            yield other


def _check_holds_tokenizer(folder: Path, name: str) -> None:
    """Refuse a folder without a tokenizer if one of its subfolders has one."""
    if any((folder / file).exists() for file in (*_TOKENIZER_FILES, "config.json")):
        return
    inner = sorted(
        one for one in folder.iterdir() if any((one / file).is_file() for file in _TOKENIZER_FILES)
    )
    if inner:
        where = f"its folder '{inner[0]}'; give that"
        if len(inner) > 1:
            where = f"{len(inner):,} of its folders, such as '{inner[0]}'; give one of these"
        raise InputError(
            f"the tokenizer {name!r} is a folder without the files of a tokenizer; they are in "
            f"{where}"
        )


def _from_file(path: Path, name: str) -> TokenizerSource:
    content = path.read_bytes()
    is_json = content.lstrip().startswith(b"{")
    try:
        text = content.decode("utf-8" if is_json else "ascii")
    except UnicodeDecodeError:
        return _from_sentencepiece(path, name)
    if not is_json:
        try:
            special = tiktoken_special_tokens(text, name)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(
                f"the tokenizer {name!r} is neither JSON nor a tiktoken file ({error}); give a "
                f"tokenizer.json, a tekken.json, a tiktoken file or a SentencePiece model"
            ) from error
        return TokenizerSource(kind="tiktoken", content=text, name=name, special_tokens=special)
    description = _parse(text, name)
    if is_tekken(description):
        special = dict(TEKKEN_SPECIAL)
        return TokenizerSource(kind="tekken", content=text, name=name, special_tokens=special)
    if path.name in _BESIDE_A_TOKENIZER and "model" not in description:
        raise InputError(
            f"the tokenizer {name!r} is a file that describes a tokenizer but does not contain it; "
            f"give its folder '{path.parent}'"
        )
    facts = read_folder(path.parent)
    differing = facts.differing_tokens(description)
    if differing:
        raise InputError(
            f"the files beside the tokenizer {name!r} name tokens that it does not have or defines "
            f"differently ({', '.join(differing[:5])}); give the folder, or copy the file to a "
            f"folder of its own"
        )
    return _from_json(text, name, facts)


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the tokenizer {name!r} is not valid JSON ({error}); give a tokenizer.json or a "
            f"tekken.json"
        ) from error
    if not isinstance(description, dict):
        raise InputError(f"the tokenizer {name!r} is not a JSON object; give a tokenizer.json")
    return description


def _from_json(text: str, name: str, facts: FolderFacts) -> TokenizerSource:
    """Make a source of a ``tokenizer.json`` and what the files beside it say."""
    templates = dict(facts.chat_templates)
    return TokenizerSource(
        kind="tokenizer.json",
        content=text,
        name=name,
        special_tokens=facts.special_tokens,
        chat_template=templates.pop("default", None),
        named_templates=templates,
    )


def _from_sentencepiece(path: Path, name: str) -> TokenizerSource:
    try:
        from megatron_packing.tokenizers.sentencepiece_model import read_sentencepiece

        model = read_sentencepiece(path)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise missing("this tokenizer", str(error.name), "tokenize") from error
    except Exception as error:
        raise InputError(
            f"the tokenizer {name!r} is neither JSON, nor a tiktoken file, nor a SentencePiece "
            f"model ({first_line(error)}); give one of these"
        ) from error
    return TokenizerSource(
        kind="tokenizer.json",
        content=model.tokenizer_json,
        name=name,
        special_tokens=model.special_tokens,
        text_prefix=model.text_prefix,
    )
