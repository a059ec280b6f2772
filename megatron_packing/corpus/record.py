# SPDX-License-Identifier: Apache-2.0
"""Reads ``PREFIX_corpus.json``, the record of how a corpus was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_packing.corpus.known_files import KnownFiles
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import read_json_file

_ADVICE = "tokenize the corpus again, or remove this file to continue without the record"


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusRecord:
    """The fields of a record that later steps use; None if the record does not have one."""

    tokenizer: str | None = None
    """The tokenizer's path or name, as the user gave it."""
    tokenizer_sha256: str | None = None
    """Digest of the tokenizer's content."""
    vocabulary_size: int | None = None
    """The tokenizer's highest token id + 1, special tokens included."""
    special_tokens: dict[str, str] | None = None
    """The text of ``bos_token``, ``eos_token`` and other special tokens."""
    largest_token: int | None = None
    """The largest token id in the corpus."""
    num_documents: int | None = None
    num_tokens: int | None = None
    num_trained_tokens: int | None = None
    has_loss_mask: bool | None = None
    """Whether a ``_loss_mask`` pair was written beside the corpus."""
    loss_on: str | None = None
    """Which messages are trained, as given to ``tokenize`` with ``--loss-on``."""
    chat_template_sha256: str | None = None
    files: KnownFiles | None = None
    """The files that were written with the record, and their fingerprint."""

    @property
    def needs_loss_mask(self) -> bool:
        """Whether the corpus is incomplete without its ``_loss_mask`` pair."""
        if self.has_loss_mask is not None:
            return self.has_loss_mask
        if self.num_tokens is None or self.num_trained_tokens is None:
            return False
        return self.num_trained_tokens < self.num_tokens


def corpus_record_path(prefix: Path) -> Path:
    """Return ``PREFIX_corpus.json``."""
    return prefix.with_name(prefix.name + "_corpus.json")


def read_corpus_record(prefix: Path) -> CorpusRecord | None:
    """Read the record beside a corpus; None if there is none.

    Raises:
        InputError: The record is not a JSON object, or a field has the wrong type.
    """
    return read_record_and_time(prefix)[0]


def read_record_and_time(prefix: Path) -> tuple[CorpusRecord | None, int]:
    """Read the record beside a corpus, and when it was last changed, in nanoseconds.

    Raises:
        InputError: As ``read_corpus_record``.
    """
    path = corpus_record_path(prefix)
    try:
        fields, status = read_json_file(path, _ADVICE, looks_first=False)
    except UnreadableError:
        if path.exists() or path.is_symlink():
            raise
        return None, 0
    return parse_corpus_record(path, fields, _ADVICE), status.st_mtime_ns


def parse_corpus_record(path: Path, fields: dict[str, Any], advice: str) -> CorpusRecord:
    """Make a record from the fields of a JSON object.

    Args:
        path: The file of the fields, for errors.
        fields: The object. Fields that a record does not have are ignored.
        advice: What to do if a field is wrong, for errors.

    Raises:
        InputError: A field has the wrong type.
    """
    template = _field(path, fields, "chat_template", dict, advice) or {}
    special = _field(path, fields, "special_tokens", dict, advice)
    if special is not None:
        for name, text in special.items():
            if not isinstance(text, str):
                raise InputError(f"{path} has {text!r:.80} for {name} in special_tokens; {advice}")
    files = fields.get("files")

    def refuse(name: str, value: object) -> InputError:
        return InputError(f"{path} has {value!r:.80} for {name}, which it cannot be; {advice}")

    return CorpusRecord(
        files=None if files is None else KnownFiles.from_json(files, refuse),
        tokenizer=_field(path, fields, "tokenizer", str, advice),
        tokenizer_sha256=_field(path, fields, "tokenizer_sha256", str, advice),
        vocabulary_size=_count(path, fields, "vocabulary_size", advice),
        special_tokens=special,
        largest_token=_count(path, fields, "largest_token", advice),
        num_documents=_count(path, fields, "num_documents", advice),
        num_tokens=_count(path, fields, "num_tokens", advice),
        num_trained_tokens=_count(path, fields, "num_trained_tokens", advice),
        has_loss_mask=_field(path, fields, "has_loss_mask", bool, advice),
        loss_on=_field(path, fields, "loss_on", str, advice),
        chat_template_sha256=_field(path, template, "sha256", str, advice),
    )


def contradiction(prefix: Path, recorded: str, found: str) -> InputError:
    """Return the error for a record that does not describe its corpus.

    Args:
        prefix: The corpus.
        recorded: What the record says, such as "counts 5 documents".
        found: What a file of the corpus has instead.
    """
    return InputError(
        f"{corpus_record_path(prefix)} {recorded}, but {found}; one of them belongs to another "
        f"corpus: copy both again, or remove the record if you changed the corpus yourself"
    )


def _field(path: Path, fields: dict[str, Any], name: str, kind: type, advice: str) -> Any:
    value = fields.get(name)
    if value is None or type(value) is kind:  # not isinstance: True is an int
        return value
    raise InputError(f"{path} has {value!r:.80} for {name}, not {kind.__name__}; {advice}")


def _count(path: Path, fields: dict[str, Any], name: str, advice: str) -> int | None:
    value: int | None = _field(path, fields, name, int, advice)
    if value is not None and not 0 <= value < 2**63:
        raise InputError(f"{path} has {value!r:.80} for {name}, which is not a count; {advice}")
    return value
