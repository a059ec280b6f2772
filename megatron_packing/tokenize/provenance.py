# SPDX-License-Identifier: Apache-2.0
"""Describes what a corpus is made from, and how: ``PREFIX_corpus.json``."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

import megatron_packing
from megatron_packing.records.input_file import InputFile
from megatron_packing.tokenize.options import EncoderOptions
from megatron_packing.tokenize.progress import Progress

_PACKAGES = ("jinja2", "mistral-common", "numpy", "tiktoken", "tokenizers", "transformers")


def describe_job(inputs: Sequence[InputFile], options: EncoderOptions) -> dict[str, Any]:
    """Describe everything that decides the bytes of a corpus, as JSON values that are cheap to get.

    An option is named as its field. A run resumes only if all of this is the same.
    """
    values = {one.name: getattr(options, one.name) for one in fields(options)}
    tokenizer, names = values.pop("tokenizer"), values.pop("names")
    return {
        "inputs": [[file.name, file.size, file.modified] for file in inputs],
        "tokenizer": tokenizer.sha256,
        "special_tokens": tokenizer.special_tokens,
        **values,
        "fields": dict(names.fields),
        "roles": dict(names.roles),
        "versions": _versions(),
    }


def describe_corpus(
    inputs: Sequence[InputFile],
    digests: Sequence[tuple[str, int]],
    options: EncoderOptions,
    progress: Progress,
    lengths: NDArray[np.int32],
    vocabulary_size: int,
) -> dict[str, Any]:
    """Return the content of ``PREFIX_corpus.json``. Equal corpora have equal records.

    Args:
        inputs: The inputs.
        digests: SHA-256 and bytes of each input.
        options: How records were encoded.
        progress: The counts of the finished run.
        lengths: Shape ``(num_documents,)``: tokens of each document.
        vocabulary_size: The tokenizer's highest token + 1.
    """
    template = None
    if options.chat_template is not None:
        digest = hashlib.sha256(options.chat_template.encode()).hexdigest()
        texts = {"text": options.chat_template}
        if options.tool_template is not None:
            texts["text_for_tools"] = options.tool_template
        is_dated = any("strftime_now" in text for text in texts.values())
        template = {
            "sha256": digest,
            "arguments": options.template_arguments,
            "date": options.date if is_dated else None,
            **texts,
        }
    quantiles = np.quantile(lengths, (0.5, 0.9, 0.99), method="higher").tolist()
    return {
        "inputs": [
            {"name": file.name, "format": file.format, "bytes": size, "sha256": digest}
            for file, (digest, size) in zip(inputs, digests, strict=True)
        ],
        "tokenizer": options.tokenizer.name,
        "tokenizer_sha256": options.tokenizer.sha256,
        "vocabulary_size": vocabulary_size,
        "special_tokens": dict(sorted(options.tokenizer.special_tokens.items())),
        "chat_template": template,
        "loss_on": options.loss_on,
        "end_token": options.end_token,
        "fields": dict(options.names.fields),
        "roles": dict(options.names.roles),
        "schemas": dict(sorted(progress.schemas.items())),
        "num_records": progress.num_records,
        "num_documents": progress.num_documents,
        "num_rejects": progress.num_rejects,
        "rejects": dict(sorted(progress.rejects.items())),
        "num_documents_with_special_tokens": progress.num_with_special_tokens,
        "notes": dict(sorted(progress.notes.items())),
        "num_tokens": progress.num_tokens,
        "num_trained_tokens": progress.num_trained_tokens,
        "has_loss_mask": progress.num_trained_tokens < progress.num_tokens,
        "largest_token": progress.largest_token,
        "tokens_per_document": {
            "min": int(lengths.min()),
            "mean": round(progress.num_tokens / progress.num_documents, 2),
            "p50": quantiles[0],
            "p90": quantiles[1],
            "p99": quantiles[2],
            "max": int(lengths.max()),
        },
        "versions": _versions(),
    }


def _versions() -> dict[str, str | None]:
    return {
        "megatron-packing": megatron_packing.__version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
