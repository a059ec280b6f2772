# SPDX-License-Identifier: Apache-2.0
"""Refuses to mix corpora of different tokenizers, and tokens outside a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_packing.corpus.record import CorpusRecord
from megatron_packing.counted import counted
from megatron_packing.errors import InputError


def check_same_tokenizer(
    records: Sequence[tuple[str, CorpusRecord | None]], *, way_out: str = "--allow-other-tokenizer"
) -> None:
    """Refuse corpora of different tokenizers, whose token ids mean different texts.

    A corpus is not compared if its record is missing or names no tokenizer.

    Args:
        records: The name of each corpus for errors, and its record.
        way_out: The option that accepts different tokenizers, for errors.

    Raises:
        InputError: Two corpora were made with different tokenizers or special tokens.
    """
    known = [
        (where, record)
        for where, record in records
        if record is not None and record.tokenizer_sha256 is not None
    ]
    for where, record in known[1:]:
        first_where, first = known[0]
        if record.tokenizer_sha256 != first.tokenizer_sha256:
            raise InputError(
                f"{first_where} was tokenized with {_describe(first)} and {where} with "
                f"{_describe(record)}, so their token ids mean different texts; tokenize them with "
                f"the same tokenizer, or give {way_out} if their ids are the same"
            )
        differing = _differing_special_token(first, record)
        if differing is not None:
            name, *texts = differing
            raise InputError(
                f"{first_where} was tokenized with {name} {texts[0]!r} and {where} with "
                f"{texts[1]!r}; tokenize them with the same special tokens, or give {way_out}"
            )


def check_vocabulary(where: str, largest_token: int, size: int, what: str) -> None:
    """Refuse tokens that are not in a vocabulary.

    Args:
        where: The name of the corpus, for errors.
        largest_token: Its largest token id.
        size: The size of the vocabulary, which has ids 0 to ``size - 1``.
        what: The name of the vocabulary, such as "the model's padded vocabulary".

    Raises:
        InputError: ``largest_token`` is ``size`` or more.
    """
    if largest_token >= size:
        raise InputError(
            f"{where} holds token {largest_token:,}, but {what} has {counted(size, 'token')}; use "
            f"the tokenizer that the corpus was made with, or tokenize the corpus again"
        )


def _describe(record: CorpusRecord) -> str:
    return f"{record.tokenizer} (sha256 {str(record.tokenizer_sha256)[:12]})"


def _differing_special_token(
    first: CorpusRecord, second: CorpusRecord
) -> tuple[str, str | None, str | None] | None:
    """Return the name of a special token that differs, and its text in each record."""
    if first.special_tokens is None or second.special_tokens is None:
        return None
    for name in sorted(first.special_tokens.keys() | second.special_tokens.keys()):
        texts = (first.special_tokens.get(name), second.special_tokens.get(name))
        if texts[0] != texts[1]:
            return name, *texts
    return None
