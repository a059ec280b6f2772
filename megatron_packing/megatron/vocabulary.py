# SPDX-License-Identifier: Apache-2.0
"""Compares the corpora of a run with its tokenizer and with the vocabulary of its model."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from megatron_packing.corpus.content import find_largest_token
from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.tokenizers_match import check_same_tokenizer, check_vocabulary
from megatron_packing.errors import InputError
from megatron_packing.megatron.dataset import PackedDataset

logger = logging.getLogger(__name__)

WAY_OUT = "--packing-allow-other-tokenizer"
_FILES = ("tokenizer.json", "tekken.json", "tokenizer.model")


def check_tokenizer(corpora: Sequence[Corpus], args: Namespace, tokenizer: Any) -> None:
    """Refuse corpora that were tokenized with another tokenizer than each other or than the run's.

    What a corpus does not record is not compared. The content of tokenizers is compared where that
    of the run can be read, else the sizes of their vocabularies.

    Args:
        corpora: Of all splits.
        args: Megatron's arguments.
        tokenizer: What Megatron built of them.

    Raises:
        InputError: They differ, and ``--packing-allow-other-tokenizer`` was not given.
    """
    if args.packing_allow_other_tokenizer:
        return
    check_same_tokenizer([(str(one.prefix), one.record) for one in corpora], way_out=WAY_OUT)
    name = getattr(args, "tokenizer_model", None)
    if not name or "Null" in str(args.tokenizer_type):
        return  # numbers, which are nobody's tokens: check_tokens compares the largest
    digests: set[str] | None = None
    for corpus in corpora:
        record = corpus.record
        if record is None or record.tokenizer_sha256 is None:
            continue
        if digests is None:
            digests = _digests(str(name))
        if digests:
            if record.tokenizer_sha256 not in digests:
                raise InputError(
                    f"{corpus.prefix} was tokenized with {record.tokenizer}, whose content is not "
                    f"that of --tokenizer-model {name}; give the tokenizer that the corpus was "
                    f"made with, or {WAY_OUT} if their token ids are the same"
                )
            continue
        size = getattr(tokenizer, "vocab_size", None)
        if None not in (size, record.vocabulary_size) and size != record.vocabulary_size:
            raise InputError(
                f"{corpus.prefix} was tokenized with {record.tokenizer}, which has "
                f"{record.vocabulary_size:,} tokens, but --tokenizer-model {name} has {size:,}; "
                f"give the tokenizer that the corpus was made with, or {WAY_OUT}"
            )


def check_tokens(datasets: Iterable[PackedDataset], args: Namespace) -> None:
    """Refuse tokens that the model has no embedding for, on any layout.

    With tensor parallelism Megatron trains on such a token as if it were another one, and without
    it fails in the middle of a step.

    Raises:
        InputError: A corpus holds a token that the padded vocabulary does not.
    """
    size = getattr(args, "padded_vocab_size", None) or getattr(args, "vocab_size", None)
    if not size:
        return
    checked = set()
    for dataset in datasets:
        corpus = dataset.corpus
        if corpus.fingerprint in checked:
            continue
        checked.add(corpus.fingerprint)
        largest = getattr(dataset.index.corpus, "largest_token", None)
        if largest is None:
            unread = [
                part
                for part in corpus.corpora
                if not part.record or part.record.largest_token is None
            ]
            for part in unread:
                logger.info(
                    f"reading {part.prefix}.bin for its largest token, which neither its record "
                    f"nor the pack index says"
                )
            largest = find_largest_token(corpus)
        check_vocabulary(str(corpus.prefix), largest, size, "the model's padded vocabulary")


def _digests(name: str) -> set[str]:
    """What a corpus of this tokenizer may have recorded as its content; empty if it cannot be read.

    A folder's own file has other bytes than what transformers makes of the folder.
    """
    path = Path(name)
    folder = path if path.is_dir() else path.parent
    places = [name, *(str(folder / file) for file in _FILES if (folder / file).is_file())]
    if path.is_file():
        places.append(str(folder))
    digests: set[str] = set()
    for place in places:
        try:
            from megatron_packing.tokenizers.tokenizer import find_recorded_forms

            digests.update(source.sha256 for source in find_recorded_forms(place))
        except Exception as error:
            logger.debug(f"the tokenizer {place} cannot be compared: {error}")
    return digests
