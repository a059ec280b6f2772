# SPDX-License-Identifier: Apache-2.0
"""The end token that ``export`` and ``probe`` are given, or that a corpus's tokenizer has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_packing.corpus.record import read_corpus_record
from megatron_packing.corpus.tokenizers_match import check_same_tokenizer
from megatron_packing.errors import InputError
from megatron_packing.tokenizers.of_corpus import find_corpus_tokenizer
from megatron_packing.tokenizers.source import TokenizerSource


def choose_end_token(
    given: str | None,
    prefixes: Sequence[Path],
    *,
    allow_other: bool = False,
    may_be_any: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> int:
    """The id of the end token.

    Args:
        given: An id, the text of a token, or None for the tokenizer's ``eos_token``.
        prefixes: The corpora, which must be of one tokenizer.
        allow_other: Accept corpora of several tokenizers, and an id that is not the tokenizer's.
        may_be_any: Accept the id of any token of the tokenizer: nobody reads padding by it.
        note: Called with what could not be compared.

    Raises:
        InputError: It is not known, not a token, or not the end token of the recorded tokenizer.
    """
    records = [(str(prefix), read_corpus_record(prefix)) for prefix in prefixes]
    if not allow_other:
        check_same_tokenizer(records)
    recorded = [
        Path(prefix) for prefix, record in records if record is not None and record.tokenizer
    ]
    number = int(given) if given is not None and given.lstrip("-").isdecimal() else None
    if not recorded:
        if number is None:
            what = "is not given" if given is None else f"is the text {given!r}"
            raise InputError(
                f"--end-token {what}, and {prefixes[0]} records no tokenizer to look it up in; "
                f"give the token's id"
            )
        return number
    try:
        source = find_corpus_tokenizer(recorded[0])
    except InputError as error:
        if number is None:
            raise InputError(
                f"--end-token cannot be looked up: {error}; or give the token's id"
            ) from error
        note(f"--end-token was not compared with the corpus's tokenizer: {error}")
        return number
    assert source is not None, "the record names one"
    if number is None:
        return _look_up(given, source)
    if not allow_other:
        _compare(number, source, recorded[0], may_be_any=may_be_any)
    return number


def _look_up(given: str | None, source: TokenizerSource) -> int:
    text = source.special_tokens.get("eos_token") if given is None else given
    if text is None:
        raise InputError(
            f"the tokenizer {source.name!r} names no eos_token; give --end-token, the id or the "
            f"text of the token that the model's configuration calls so"
        )
    token = source.open().token_of(text)
    if token is None:
        raise InputError(
            f"--end-token is {text!r}, which is not a token of {source.name!r}; give one of its "
            f"tokens, such as {source.special_tokens.get('eos_token', '</s>')!r}, or an id"
        )
    return token


def _compare(number: int, source: TokenizerSource, prefix: Path, *, may_be_any: bool) -> None:
    """Refuse an id that is no token, or that readers would not take for the end token."""
    if number < 0 and not may_be_any:
        return  # the export says what it must be
    tokenizer = source.open()
    if not 0 <= number < tokenizer.vocabulary_size:
        raise InputError(
            f"--end-token is {number}, but {source.name!r}, with which {prefix} was tokenized, has "
            f"{tokenizer.vocabulary_size:,} tokens; give one of them"
        )
    text = source.special_tokens.get("eos_token")
    token = tokenizer.token_of(text) if text is not None else None
    if token not in (None, number) and not may_be_any:
        raise InputError(
            f"--end-token is {number}, but {prefix} was tokenized with {source.name!r}, whose "
            f"eos_token {text!r} is {token}: readers know padding by that one; leave --end-token "
            f"out, or give --allow-other-tokenizer where the readers use another tokenizer"
        )
