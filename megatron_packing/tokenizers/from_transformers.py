# SPDX-License-Identifier: Apache-2.0
"""Loads a tokenizer with transformers, from a folder or from its cache of downloaded models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_packing.errors import InputError, missing
from megatron_packing.tokenizers.source import TokenizerSource, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_with_transformers(path_or_name: str) -> TokenizerSource:
    """Load a tokenizer as transformers does. Nothing is downloaded.

    Args:
        path_or_name: A folder, or the name of a downloaded model.

    Raises:
        InputError: transformers is missing or cannot load it, or it gives no character offsets.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it warns if torch is missing
    try:
        from transformers import AutoTokenizer
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise missing("this tokenizer", str(error.name), "tokenize") from error
    except ImportError as error:
        raise InputError(
            f"transformers, which loads the tokenizer {path_or_name!r}, cannot be imported "
            f"({first_line(error)}); repair its installation"
        ) from error
    logging.set_verbosity_error()
    try:
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(
            path_or_name, local_files_only=True
        )
    except Exception as error:
        reason = first_line(error)
        if not Path(path_or_name).exists():  # it tells of a network, which is not used
            reason = "there is no such file or folder, nor a downloaded model of that name"
        raise InputError(
            f"the tokenizer {path_or_name!r} could not be loaded ({reason}); give a "
            f"folder with a tokenizer.json, the file of a tokenizer, or the name of a downloaded "
            f"model (hf download NAME)"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer {path_or_name!r} is a slow one, which gives no character offsets; "
            f"convert it to a tokenizer.json"
        )
    templates = tokenizer.chat_template
    templates = dict(templates) if isinstance(templates, dict) else {"default": templates}
    default = templates.pop("default", None)
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
        chat_template=default,
        named_templates=templates,
    )
