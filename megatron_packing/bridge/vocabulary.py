# SPDX-License-Identifier: Apache-2.0
"""Compares the tokens of a corpus with the tokenizer and the vocabulary of a Bridge run."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus, split_entry
from megatron_packing.corpus.record import CorpusRecord, read_corpus_record
from megatron_packing.corpus.tokenizers_match import check_vocabulary
from megatron_packing.errors import InputError

logger = logging.getLogger(__name__)

_TRIED_DOCUMENTS = 16
_TRIED_TOKENS = 256
_CUT_TOKENS = 8
# Texts of the same tokenizer come back whole, but for spaces beside special tokens. Texts of
# another one come back in part, as many tokens are whole words, and short ones may come back whole.
# Of 300 conversations (examples/chitchat.py) and six vocabularies (Mistral 7B v0.1 and v0.3,
# DeepSeek; Llama 3 and 4, Qwen, these cut into words by one pattern, not each by its own) all came
# back with their own, and 35% at most with another.
_SAME = 0.95
_MOST = 0.75


def check_tokens(
    corpus: Corpus | JoinedCorpus, tokenizer: Any, model: Any, *, allow_other_tokenizer: bool
) -> None:
    """Refuse a corpus whose tokens mean other texts to the run's tokenizer, or nothing.

    Args:
        corpus: The documents.
        tokenizer: Bridge's, of the run; None where it is not known.
        model: ``cfg.model``, whose vocabulary is what it is trained with.
        allow_other_tokenizer: Do not compare tokenizers, only the vocabulary.

    Raises:
        InputError: The tokenizers differ, or a token is not in the model's vocabulary.
    """
    for prefix in _prefixes(corpus):
        record = read_corpus_record(prefix)
        check_model_vocabulary(prefix, record, model)
        if not allow_other_tokenizer and tokenizer is not None:
            check_tokenizer(prefix, record, tokenizer)


def _prefixes(corpus: Corpus | JoinedCorpus) -> list[Path]:
    entries = str(corpus.prefix).split(",")
    if isinstance(corpus, Corpus):
        return [corpus.prefix]
    return list(dict.fromkeys(Path(split_entry(entry)[0]) for entry in entries))


def check_model_vocabulary(prefix: Path, record: CorpusRecord | None, model: Any) -> None:
    """Refuse tokens that the model's embedding does not have.

    Where tensor parallelism splits the embedding such tokens would train it in silence.

    Raises:
        InputError: There is such a token.
    """
    size = padded_vocabulary(model)
    if size is None:
        return
    largest = record.largest_token if record is not None else None
    if largest is None:
        # All tokens are looked at by one rank: where it ends the launcher ends the others.
        if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
            return
        largest = largest_token(prefix)
    check_vocabulary(
        str(prefix), largest, size, "the model (cfg.model.vocab_size, with its padding)"
    )


def padded_vocabulary(model: Any) -> int | None:
    """Tokens that the model's embedding has, as Bridge makes it; None before Bridge set it."""
    size = getattr(model, "vocab_size", None)
    if size is None:
        return None
    if not getattr(model, "should_pad_vocab", False):
        return int(size)
    multiple = model.make_vocab_size_divisible_by * model.tensor_model_parallel_size
    return int(-(-size // multiple) * multiple)


def largest_token(prefix: Path) -> int:
    """The largest token id of a corpus, by reading all of it; -1 where it has none."""
    corpus = Corpus(prefix)
    tokens = (corpus.tokens(document) for document in range(len(corpus)))
    return max((int(part.max()) for part in tokens if len(part)), default=-1)


def check_tokenizer(prefix: Path, record: CorpusRecord | None, tokenizer: Any) -> None:
    """Refuse a tokenizer to which the corpus's token ids mean other texts.

    The same content is proof that they mean the same. Other content is no proof of the contrary, as
    releases of a library write the same tokenizer differently: so texts of the corpus are read
    by the run's tokenizer and tokenized again, which gives the same tokens or it is another one.

    Raises:
        InputError: It is another one.
    """
    if _is_null(tokenizer):
        return  # it stands for none
    own = _own(tokenizer)
    if record is not None and record.tokenizer_sha256 in _digests(own):
        return
    try:
        tried = [_comes_back(own, ids) for ids in _samples(prefix)]
    except Exception as error:  # of whatever library the tokenizer is from
        logger.warning(
            f"{prefix} was not compared with the run's tokenizer, which does not turn its tokens "
            f"into text ({type(error).__name__}: {error}); make sure that they belong together"
        )
        return
    if sum(tried) < _MOST * len(tried):
        made_with = record.tokenizer if record is not None else None
        raise InputError(
            f"{prefix} was tokenized with {made_with or 'another tokenizer'}, not with that of "
            f"cfg.tokenizer, to which its token ids mean other texts ({sum(tried)} of "
            f"{len(tried)} documents come back as they are); use the model's tokenizer for both, "
            f"or allow_other_tokenizer=True if the ids are the same"
        )


def _is_null(tokenizer: Any) -> bool:
    names = {type(part).__name__ for part in (tokenizer, getattr(tokenizer, "_tokenizer", None))}
    return any("Null" in name for name in names)


def _own(tokenizer: Any) -> Any:
    """The tokenizer of transformers that Bridge's is made of; else Bridge's own."""
    part = tokenizer
    for _ in range(3):
        if hasattr(part, "backend_tokenizer"):
            return part
        inner = getattr(part, "_tokenizer", None)
        part = inner if inner is not None else getattr(part, "tokenizer", None)
    return tokenizer


def _digests(tokenizer: Any) -> set[str]:
    """What ``PREFIX_corpus.json`` may call this tokenizer."""
    texts: list[str] = []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        texts.append(backend.to_str())
    folder = getattr(tokenizer, "name_or_path", None)
    file = Path(str(folder)) / "tokenizer.json"
    if folder and file.is_file():
        texts.append(file.read_text(encoding="utf-8"))
    return {hashlib.sha256(text.encode()).hexdigest() for text in texts}


def _samples(prefix: Path) -> Iterator[list[int]]:
    """The beginnings of some documents, spread over the corpus."""
    corpus = Corpus(prefix)
    step = max(1, len(corpus) // _TRIED_DOCUMENTS)
    documents = itertools.islice(range(0, len(corpus), step), _TRIED_DOCUMENTS)
    for document in documents:
        length = min(_TRIED_TOKENS, int(corpus.num_tokens[document]))
        if length > 1:
            yield corpus.tokens(document, 0, length).tolist()


def _comes_back(tokenizer: Any, ids: list[int]) -> bool:
    """Whether the text of some tokens has the same tokens, but for the last few, cut at will."""
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
