# SPDX-License-Identifier: Apache-2.0
"""Which tokenizer packed files were made with.

The formats of NeMo and Megatron-Bridge have no field for it, but both have room that readers pass
over: the key-value metadata of a Parquet file, and a key of the entry in ``metadata.jsonl`` beside
a ``.npy`` file. What stands there is JSON with the fields of a corpus's record about the tokenizer.
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
_MOST_BYTES = 1 << 24  # of metadata.jsonl: it has an entry for each packed file


def tokenizer_fields(record: CorpusRecord) -> dict[str, Any]:
    """What a record says of its tokenizer."""
    fields = asdict(record)
    return {name: fields[name] for name in _FIELDS if fields[name] is not None}


def tokenizer_of(corpus: TokenDocuments) -> dict[str, Any] | None:
    """What a corpus says of its tokenizer.

    None where it does not, and where corpora that are joined do not say the same.
    """
    parts = corpus.corpora if isinstance(corpus, Corpus | JoinedCorpus) else []
    return common_tokenizer([part.record for part in parts])


def common_tokenizer(records: list[CorpusRecord | None]) -> dict[str, Any] | None:
    """The tokenizer of several records; None where one of them names none or another."""
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
    """What a packed file says of its tokenizer; None where it does not.

    Raises:
        InputError: What it says is damaged, or the file cannot be read.
    """
    fields = _beside(path) if path.suffix.lower() == ".npy" else _inside(path)
    if not isinstance(fields, dict):
        return None
    return parse_corpus_record(path, fields, _ADVICE)


def _inside(path: Path) -> Any:
    text = read_key(path, KEY)
    return None if text is None else _parse(text)


def _beside(path: Path) -> Any:
    """From the entry of ``metadata.jsonl``, which names the file that it is of."""
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
    """JSON; None where it is none, as other programs may write there what they like."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
