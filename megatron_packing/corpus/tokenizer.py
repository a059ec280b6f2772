"""Loads tokenizers and chat templates from files or by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megatron_packing.corpus.chat_template import ChatTemplate
from megatron_packing.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Megatron's IndexedDataset.DType.optimal_dtype draws the line here.
_UINT16_VOCABULARY = 65500


def load_tokenizer(path_or_name: str) -> PreTrainedTokenizerFast:
    """Load a Hugging Face tokenizer: a folder, a ``tokenizer.json``, or a name on the hub.

    Raises:
        InputError: There is no such tokenizer, or it gives no character offsets.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses torch here
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(
            "tokenizing needs transformers, which is not installed; "
            "install it with: pip install 'megatron-packing[tokenize]'"
        ) from error
    logging.set_verbosity_error()
    path = Path(path_or_name)
    try:
        if path.is_file():
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
        else:
            tokenizer = AutoTokenizer.from_pretrained(path_or_name)
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"the tokenizer {path_or_name!r} could not be loaded ({reason}); give a folder with a "
            f"tokenizer.json, such a file, or a name that transformers can find"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer {path_or_name!r} is a slow one, which tells no character offsets; "
            f"convert it to a tokenizer.json"
        )
    return tokenizer


def load_chat_template(path_or_name: str, template_file: Path | None) -> ChatTemplate:
    """Load a tokenizer with its own chat template, or with the one in ``template_file``.

    Raises:
        InputError: The tokenizer or the template cannot be loaded.
    """
    tokenizer = load_tokenizer(path_or_name)
    if template_file is not None:
        try:
            template = template_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"the chat template {template_file} cannot be read: {error}"
            ) from error
    elif isinstance(tokenizer.chat_template, str):
        template = tokenizer.chat_template
    elif isinstance(tokenizer.chat_template, dict) and "default" in tokenizer.chat_template:
        template = tokenizer.chat_template["default"]
    else:
        raise InputError(
            f"the tokenizer {path_or_name!r} has no chat template; "
            f"give one with --chat-template FILE"
        )
    return ChatTemplate(tokenizer, template)


def token_dtype(tokenizer: PreTrainedTokenizerFast) -> np.dtype[np.uint16] | np.dtype[np.int32]:
    """The narrowest dtype that Megatron would store this vocabulary in."""
    return np.dtype(np.uint16) if len(tokenizer) < _UINT16_VOCABULARY else np.dtype(np.int32)
