# SPDX-License-Identifier: Apache-2.0
"""Checks the tokens of a corpus against the tokenizer and vocabulary of a Bridge run."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from megatron_packing.corpus.content import find_largest_token
from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.corpus.tokenizers_match import check_vocabulary
from megatron_packing.counted import counted
from megatron_packing.errors import InputError

logger = logging.getLogger(__name__)

_TRIED_DOCUMENTS = 16
_TRIED_TOKENS = 256
_CUT_TOKENS = 8
# Decoding and encoding again with the same tokenizer gives the same tokens, except for spaces
# beside special tokens. Another tokenizer gives some of them, because many tokens are whole words,
# and a short document may survive entirely. With 300 conversations (examples/chitchat.py) and six
# vocabularies (Mistral 7B v0.1 and v0.3, DeepSeek; Llama 3 and 4 and Qwen, split into words by one
# common pattern), all documents survived with their own tokenizer, and at most 35% with another.
_SAME = 0.95
_MOST = 0.75


def check_tokens(
    corpus: Corpus | JoinedCorpus, tokenizer: Any, model: Any, *, allow_other_tokenizer: bool
) -> None:
    """Refuse a corpus whose token ids do not match the run's tokenizer or vocabulary.

    Args:
        corpus: The documents.
        tokenizer: The run's tokenizer; None if it is unknown.
        model: ``cfg.model``, for the size of its vocabulary.
        allow_other_tokenizer: Check only the vocabulary, not the tokenizer.

    Raises:
        InputError: The tokenizers differ, or a token is not in the model's vocabulary.
    """
    for part in {part.prefix: part for part in corpus.corpora}.values():
        check_model_vocabulary(part, model)
        if not allow_other_tokenizer and tokenizer is not None:
            check_tokenizer(part, tokenizer)


def check_model_vocabulary(corpus: Corpus, model: Any) -> None:
    """Refuse token ids beyond the model's embedding.

    With tensor parallelism such a token would silently be trained as another one.

    Raises:
        InputError: There is such a token.
    """
    size = padded_vocabulary(model)
    if size is None:
        return
    largest = find_largest_token(corpus)
    check_vocabulary(
        str(corpus.prefix), largest, size, "the model (cfg.model.vocab_size, with its padding)"
    )


def padded_vocabulary(model: Any) -> int | None:
    """Return the size of the model's embedding in tokens; None before Bridge sets it."""
    size = getattr(model, "vocab_size", None)
    if size is None:
        return None
    if not getattr(model, "should_pad_vocab", False):
        return int(size)
    multiple = model.make_vocab_size_divisible_by * model.tensor_model_parallel_size
    return int(-(-size // multiple) * multiple)


def check_tokenizer(corpus: Corpus, tokenizer: Any) -> None:
    """Refuse a tokenizer that does not match the corpus's token ids.

    Tokenizer files with the same content match. Files with other content may still match, because
    library releases serialize the same tokenizer differently. So if the content differs, some
    documents are decoded and encoded again: a matching tokenizer gives the same tokens.

    Raises:
        InputError: The tokenizer does not match.
    """
    if _is_null(tokenizer):
        return  # a stand-in without a vocabulary
    prefix, record = corpus.prefix, corpus.record
    inner = _inner_tokenizer(tokenizer)
    if record is not None and record.tokenizer_sha256 in _digests(inner):
        return
    try:
        tried = [_survives(inner, ids) for ids in _samples(corpus)]
    except Exception as error:  # any tokenizer library may have raised it
        logger.warning(
            f"{prefix} was not compared with the run's tokenizer, which could not decode its "
            f"tokens ({type(error).__name__}: {error}); check that the corpus was made with it"
        )
        return
    if sum(tried) < _MOST * len(tried):
        made_with = record.tokenizer if record is not None else None
        raise InputError(
            f"{prefix} was tokenized with {made_with or 'another tokenizer'}, which does not match "
            f"cfg.tokenizer (decoding and encoding again preserved {sum(tried)} of "
            f"{counted(len(tried), 'document')}); use the model's tokenizer for both, "
            f"or allow_other_tokenizer=True if the ids are the same"
        )


def _is_null(tokenizer: Any) -> bool:
    names = {type(part).__name__ for part in (tokenizer, getattr(tokenizer, "_tokenizer", None))}
    return any("Null" in name for name in names)


def _inner_tokenizer(tokenizer: Any) -> Any:
    """Return the transformers tokenizer inside Bridge's tokenizer, or Bridge's own."""
    part = tokenizer
    for _ in range(3):
        if hasattr(part, "backend_tokenizer"):
            return part
        inner = getattr(part, "_tokenizer", None)
        part = inner if inner is not None else getattr(part, "tokenizer", None)
    return tokenizer


def _digests(tokenizer: Any) -> set[str]:
    """Return the digests that ``PREFIX_corpus.json`` may have recorded for this tokenizer."""
    texts: list[str] = []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        texts.append(backend.to_str())
    folder = getattr(tokenizer, "name_or_path", None)
    file = Path(str(folder)) / "tokenizer.json"
    if folder and file.is_file():
        texts.append(file.read_text(encoding="utf-8"))
    return {hashlib.sha256(text.encode()).hexdigest() for text in texts}


def _samples(corpus: Corpus) -> Iterator[list[int]]:
    """Yield the first tokens of some documents, spread over the corpus."""
    step = max(1, len(corpus) // _TRIED_DOCUMENTS)
    documents = itertools.islice(range(0, len(corpus), step), _TRIED_DOCUMENTS)
    for document in documents:
        length = min(_TRIED_TOKENS, int(corpus.num_tokens[document]))
        if length > 1:
            yield corpus.tokens(document, 0, length).tolist()


def _survives(tokenizer: Any, ids: list[int]) -> bool:
    """Whether decoding and encoding gives the same tokens, except the last few, which are cut."""
    if hasattr(tokenizer, "backend_tokenizer"):
        backend = tokenizer.backend_tokenizer
        again = backend.encode(
            backend.decode(ids, skip_special_tokens=False), add_special_tokens=False
        ).ids
    else:
        again = list(tokenizer.tokenize(tokenizer.detokenize(ids)))
    wanted = ids[: len(ids) - min(_CUT_TOKENS, len(ids) // 4)]
    found = list(again)[: len(wanted) + 2]
    same = SequenceMatcher(None, wanted, found, autojunk=False).get_matching_blocks()
    return sum(block.size for block in same) >= _SAME * len(wanted)
