# SPDX-License-Identifier: Apache-2.0
"""Records which tokenizer packed files were made with, and reads it back.

The formats of NeMo and Megatron-Bridge have no field for the tokenizer. Both have a location that
readers ignore: the key-value metadata of a Parquet file, and an extra key of the entry in
``metadata.jsonl`` beside a ``.npy`` file. It holds the tokenizer fields of the corpus's record, as
JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_packing.corpus.corpus import Corpus, TokenDocuments
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.corpus.record import CorpusRecord, parse_corpus_record
from megatron_packing.interchange.checksums import check_checksum, sha256_of
from megatron_packing.interchange.parquet_file import read_key

METADATA = "metadata.jsonl"
KEY = "megatron_packing_tokenizer"
_FIELDS = ("tokenizer", "tokenizer_sha256", "vocabulary_size", "special_tokens")
_ADVICE = "export it again"
_MOST_BYTES = 1 << 24  # size limit of metadata.jsonl, which has an entry per packed file


def tokenizer_fields(record: CorpusRecord) -> dict[str, Any]:
    """Return the tokenizer fields of a record."""
    fields = asdict(record)
    return {name: fields[name] for name in _FIELDS if fields[name] is not None}


def tokenizer_of(corpus: TokenDocuments) -> dict[str, Any] | None:
    """Return the tokenizer fields of a corpus.

    None if the corpus does not record them, or if joined corpora have different ones.
    """
    parts = corpus.corpora if isinstance(corpus, Corpus | JoinedCorpus) else []
    return common_tokenizer([part.record for part in parts])


def common_tokenizer(records: list[CorpusRecord | None]) -> dict[str, Any] | None:
    """Return the tokenizer fields that all records share; None if one lacks them or differs."""
    first, *others = records or [None]
    if first is None or first.tokenizer_sha256 is None:
        return None
    for record in others:
        if record is None or (record.tokenizer_sha256, record.special_tokens) != (
            first.tokenizer_sha256,
            first.special_tokens,
        ):
            return None
    return tokenizer_fields(first)


def read_tokenizer(path: Path) -> CorpusRecord | None:
    """Return the tokenizer that a packed file records; None if it does not.

    Raises:
        InputError: The recorded fields are damaged, or the file cannot be read.
    """
    fields = _beside(path) if path.suffix.lower() == ".npy" else _inside(path)
    if not isinstance(fields, dict):
        return None
    return parse_corpus_record(path, fields, _ADVICE)


def _inside(path: Path) -> Any:
    text = read_key(path, KEY)
    return None if text is None else _parse(text)


def _beside(path: Path) -> Any:
    """Read the file's entry in ``metadata.jsonl``."""
    metadata = path.with_name(METADATA)
    try:
        if metadata.stat().st_size > _MOST_BYTES:
            return None
        entries = _parse(metadata.read_bytes())
    except OSError:
        return None
    for entry in entries if isinstance(entries, list) else []:
        said = entry.get(KEY) if isinstance(entry, dict) else None
        if isinstance(said, dict) and said.get("file") == path.name:
            check_checksum(metadata, sha256_of(metadata))
            return said
    return None


def _parse(text: bytes) -> Any:
    """Parse JSON; None if it is not JSON, because other programs may use these locations."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
