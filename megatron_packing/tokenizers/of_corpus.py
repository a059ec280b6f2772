# SPDX-License-Identifier: Apache-2.0
"""Finds the tokenizer that a corpus was made with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_packing.corpus.record import CorpusRecord, read_corpus_record
from megatron_packing.errors import InputError
from megatron_packing.tokenizers.find import find_recorded_forms, find_tokenizer
from megatron_packing.tokenizers.source import TokenizerSource


def find_corpus_tokenizer(
    prefix: Path, path_or_name: str | None = None, *, allow_other: bool = False
) -> TokenizerSource | None:
    """Find the given tokenizer, or else the one that a corpus records.

    A recorded relative path is searched from the current folder, from the corpus's folder and from
    the folders above that.

    Args:
        prefix: The prefix of the corpus.
        path_or_name: An argument of ``find_tokenizer``; None finds the recorded tokenizer.
        allow_other: Accept a tokenizer that is not the recorded one.

    Returns:
        None if no tokenizer is given and none is recorded.

    Raises:
        InputError: The tokenizer cannot be loaded, or the corpus was made with another one.
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
        f"the tokenizer {source.name!r} is not the one that {prefix} was made with, so it would "
        f"decode the tokens wrongly; give the right one with --tokenizer"
    )


def _find_recorded(name: str, prefix: Path, sha256: str | None) -> TokenizerSource:
    found = None
    for path in _candidates(name, prefix):
        source = _find_form(str(path), sha256)
        if sha256 in (None, source.sha256):
            return source
        found = found or source
    return found or find_tokenizer(name)


def _find_form(path_or_name: str, sha256: str | None) -> TokenizerSource:
    """Return the form whose content a corpus recorded, or else the first form."""
    forms = []
    for source in find_recorded_forms(path_or_name):
        if sha256 in (None, source.sha256):
            return source
        forms.append(source)
    return forms[0]


def _candidates(name: str, prefix: Path) -> Iterator[Path]:
    """Yield the existing files and folders that a recorded relative path may mean."""
    if not Path(name).is_absolute():
        folders = dict.fromkeys([*prefix.absolute().parents, *prefix.resolve().parents])
        for folder in (Path(), *folders):
            if (folder / name).exists():
                yield folder / name
