# SPDX-License-Identifier: Apache-2.0
"""Finds the chat templates of a run."""

from __future__ import annotations

from pathlib import Path

from megatron_packing.errors import InputError
from megatron_packing.tokenizers.source import TokenizerSource

_FOR_TOOLS = "tool_use"


def find_templates(
    source: TokenizerSource, file_or_name: str | Path | None
) -> tuple[str | None, str | None]:
    """Find the chat template, and the one for conversations with tools.

    Args:
        source: A tokenizer. As in transformers, its template ``default`` is used if none is given,
            and ``tool_use`` for conversations with tools.
        file_or_name: A Jinja file, or the name of one of the tokenizer's templates.

    Returns:
        The texts of both templates. The first is None if there is no template, the second if
        conversations with tools use the first.

    Raises:
        InputError: The file cannot be read, there is no template of this name, or the tokenizer has
            several templates and no default.
    """
    if file_or_name is None:
        if source.chat_template is None and source.named_templates:
            raise InputError(
                f"the tokenizer {source.name!r} has several chat templates and no default; choose "
                f"one with --chat-template {'|'.join(sorted(source.named_templates))}"
            )
        return source.chat_template, source.named_templates.get(_FOR_TOOLS)
    path = Path(file_or_name)
    if not path.exists() or path.is_dir():
        named = dict(source.named_templates)
        if source.chat_template is not None:
            named["default"] = source.chat_template
        if str(file_or_name) in named:
            return named[str(file_or_name)], None
        known = sorted(named)
        raise InputError(
            f"the chat template {file_or_name} cannot be read: it is neither a file nor one of the "
            f"tokenizer's templates ({', '.join(known) or 'it has none'})"
        )
    try:
        return path.read_text(encoding="utf-8"), None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the chat template {file_or_name} cannot be read: {error}") from error
