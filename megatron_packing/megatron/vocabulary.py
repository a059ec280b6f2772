# SPDX-License-Identifier: Apache-2.0
"""Checks a run's corpora against its tokenizer and its model's vocabulary."""

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
from megatron_packing.megatron.versions import flag_value

logger = logging.getLogger(__name__)

WAY_OUT = "--packing-allow-other-tokenizer"
_FILES = ("tokenizer.json", "tekken.json", "tokenizer.model")


def check_tokenizer(corpora: Sequence[Corpus], args: Namespace, tokenizer: Any) -> None:
    """Refuse corpora whose tokenizer differs from the run's or from each other's.

    Corpora without a record of their tokenizer are not compared. If the run's tokenizer files can
    be read, their content is compared, otherwise the vocabulary sizes.

    Args:
        corpora: The corpora of all splits.
        args: Megatron's arguments.
        tokenizer: Megatron's tokenizer.

    Raises:
        InputError: They differ, and ``--packing-allow-other-tokenizer`` was not given.
    """
    if args.packing_allow_other_tokenizer:
        return
    check_same_tokenizer([(str(one.prefix), one.record) for one in corpora], way_out=WAY_OUT)
    name = flag_value(args, "tokenizer_model")
    if not name or "Null" in str(args.tokenizer_type):
        return  # plain numbers without a tokenizer: check_tokens compares the largest
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
                    f"{corpus.prefix} was tokenized with {record.tokenizer}, whose content differs "
                    f"from that of --tokenizer-model {name}; give the tokenizer that the corpus "
                    f"was made with, or {WAY_OUT} if their token ids are the same"
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
    """Refuse token ids beyond the model's vocabulary.

    With tensor parallelism Megatron silently trains such a token as another one. Without it, a step
    fails.

    Raises:
        InputError: A corpus has a token id that is not in the padded vocabulary.
    """
    size = flag_value(args, "padded_vocab_size") or flag_value(args, "vocab_size")
    if not size:
        return
    checked = set()
    for dataset in datasets:
        corpus = dataset.corpus
        if corpus.fingerprint in checked:
            continue
        checked.add(corpus.fingerprint)
        largest = dataset.index.corpus.largest_token
        if largest is None:
            unread = [
                part
                for part in corpus.corpora
                if not part.record or part.record.largest_token is None
            ]
            for part in unread:
                logger.info(
                    f"reading {part.prefix}.bin for its largest token, because neither its record "
                    f"nor the pack index has it"
                )
            largest = find_largest_token(corpus)
        check_vocabulary(str(corpus.prefix), largest, size, "the model's padded vocabulary")


def _digests(name: str) -> set[str]:
    """Return the digests that a corpus may have recorded for this tokenizer; empty if unreadable.

    The bytes of a folder's own file differ from those that transformers serializes for the folder.
    """
    path = Path(name)
    folder = path if path.is_dir() else path.parent
    candidates = [name, *(str(folder / file) for file in _FILES if (folder / file).is_file())]
    if path.is_file():
        candidates.append(str(folder))
    digests: set[str] = set()
    for candidate in candidates:
        try:
            from megatron_packing.tokenizers.find import find_recorded_forms

            digests.update(source.sha256 for source in find_recorded_forms(candidate))
        except Exception as error:
            logger.debug(f"the tokenizer {candidate} cannot be compared: {error}")
    return digests
