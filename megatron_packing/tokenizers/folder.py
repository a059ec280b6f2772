# SPDX-License-Identifier: Apache-2.0
"""Reads the files beside a tokenizer: special tokens, chat templates and added tokens.

transformers writes these files: ``tokenizer_config.json``, ``special_tokens_map.json``,
``added_tokens.json``, ``chat_template.jinja`` and ``additional_chat_templates/NAME.jinja``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_packing.errors import InputError


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What the files in a folder say about its tokenizer."""

    special_tokens: dict[str, str] = field(default_factory=dict)
    """``bos_token`` and so on, without those that are null."""
    names_ends: bool = False
    """Whether the files name ``bos_token`` and ``eos_token``, possibly as null. If not,
    transformers takes them from the tokenizer's class."""
    added: dict[int, tuple[str, bool | None]] = field(default_factory=dict)
    """Added tokens by id: the text, and whether the token is special (None if not stated)."""
    has_own_code: bool = False
    """Whether the tokenizer's class comes with the model."""
    chat_templates: dict[str, str] = field(default_factory=dict)
    """Chat templates by name; the main one is ``default``."""

    def differing_tokens(self, tokenizer: dict[str, Any]) -> list[str]:
        """Return the tokens that a ``tokenizer.json`` lacks or defines differently.

        Args:
            tokenizer: The content of the ``tokenizer.json``.
        """
        inside = {
            token["id"]: (token["content"], bool(token.get("special")))
            for token in tokenizer.get("added_tokens") or []
        }
        differ = [
            content
            for number, (content, special) in self.added.items()
            if number not in inside
            or inside[number][0] != content
            or special not in (None, inside[number][1])
        ]
        texts = {content for content, special in inside.values() if special}
        differ += [token for token in self.special_tokens.values() if token not in texts]
        return list(dict.fromkeys(differ))


def read_folder(folder: Path) -> FolderFacts:
    """Read the files in a folder that exist.

    Raises:
        InputError: A file cannot be read.
    """
    config = _json(folder / "tokenizer_config.json")
    tokens = {**_json(folder / "special_tokens_map.json"), **config}
    extra = config.get("extra_special_tokens")
    named = {name: token for name, token in tokens.items() if name.endswith("_token")}
    if isinstance(extra, dict):
        named = {**extra, **named}
    texts = {name: _text(token) for name, token in named.items()}
    added: dict[int, tuple[str, bool | None]] = {
        number: (content, None)
        for content, number in _json(folder / "added_tokens.json").items()
        if isinstance(number, int)
    }
    for number, token in _object(folder, config, "added_tokens_decoder").items():
        content = _text(token)
        if content is not None and number.isdecimal():
            added[int(number)] = (content, token.get("special") if token is not content else None)
    return FolderFacts(
        special_tokens={name: text for name, text in texts.items() if text},
        names_ends={"bos_token", "eos_token"} <= set(named),
        added=added,
        has_own_code="AutoTokenizer" in _object(folder, config, "auto_map"),
        chat_templates=_templates(folder, config.get("chat_template")),
    )


def _templates(folder: Path, in_config: Any) -> dict[str, str]:
    templates: dict[str, str] = {}
    if isinstance(in_config, str):
        templates["default"] = in_config
    elif isinstance(in_config, list):
        for one in in_config:
            if not isinstance(one, dict) or not {"name", "template"} <= one.keys():
                raise InputError(
                    f"{folder / 'tokenizer_config.json'} has a chat_template without a name or "
                    f"template; copy the tokenizer again"
                )
            templates[str(one["name"])] = str(one["template"])
    main = folder / "chat_template.jinja"
    if main.exists():
        templates["default"] = read_text(main)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = read_text(path)
    return templates


def _object(folder: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise InputError(
            f"{folder / 'tokenizer_config.json'} has {name} that is not a JSON object; copy the "
            f"tokenizer again"
        )
    return value


def _text(token: Any) -> str | None:
    """Return the text of a token, which is a string or an object with properties."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); copy the tokenizer again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object; copy the tokenizer again")
    return value


def read_text(path: Path) -> str:
    """Read a file of a tokenizer.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy the tokenizer again") from error
