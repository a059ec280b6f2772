# SPDX-License-Identifier: Apache-2.0
"""Finds the tokenizer that a corpus was made with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_packing.corpus.record import CorpusRecord, read_corpus_record
from megatron_packing.errors import InputError
from megatron_packing.tokenizers.tokenizer import (
    TokenizerSource,
    find_recorded_forms,
    find_tokenizer,
)


def find_corpus_tokenizer(
    prefix: Path, path_or_name: str | None = None, *, allow_other: bool = False
) -> TokenizerSource | None:
    """Find the tokenizer that is named, or the one that a corpus records.

    A recorded path that is relative is looked for from the current folder and from the corpus's
    folder and those above it, one of which it was given in.

    Args:
        prefix: Of the corpus.
        path_or_name: As ``find_tokenizer`` takes it; None for the recorded one.
        allow_other: Accept another tokenizer than the recorded one.

    Returns:
        None where no tokenizer is named and none is recorded.

    Raises:
        InputError: It cannot be loaded, or the corpus was made with another.
    """
    record = read_corpus_record(prefix) or CorpusRecord()
    if path_or_name is not None:
        source = _find_form(path_or_name, record.tokenizer_sha256)
    elif record.tokenizer is not None:
        source = _find_recorded(record.tokenizer, prefix, record.tokenizer_sha256)
    else:
        return None
    if allow_other or record.tokenizer_sha256 in (None, source.sha256):
        return source
    raise InputError(
        f"the tokenizer {source.name!r} is not the one that {prefix} was made with, so its tokens "
        f"would read wrongly; give that one with --tokenizer"
    )


def _find_recorded(name: str, prefix: Path, sha256: str | None) -> TokenizerSource:
    found = None
    for path in _places(name, prefix):
        source = _find_form(str(path), sha256)
        if sha256 in (None, source.sha256):
            return source
        found = found or source
    return found or find_tokenizer(name)


def _find_form(path_or_name: str, sha256: str | None) -> TokenizerSource:
    """The form whose content a corpus recorded; if none is, the tokenizer as it is found."""
    forms = []
    for source in find_recorded_forms(path_or_name):
        if sha256 in (None, source.sha256):
            return source
        forms.append(source)
    return forms[0]


def _places(name: str, prefix: Path) -> Iterator[Path]:
    """Where a recorded path may lead to: those that exist."""
    if not Path(name).is_absolute():
        folders = dict.fromkeys([*prefix.absolute().parents, *prefix.resolve().parents])
        for folder in (Path(), *folders):
            if (folder / name).exists():
                yield folder / name
