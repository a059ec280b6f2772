# SPDX-License-Identifier: Apache-2.0
"""Arguments shared by the planning commands."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from megatron_packing.corpus.corpus import Corpus, Documents
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus
from megatron_packing.corpus.lengths_file import LengthsFile
from megatron_packing.corpus.tokenizers_match import check_same_tokenizer
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.planning.settings import PlanSettings


def add_planning_arguments(
    parser: ArgumentParser,
    without: Collection[str] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Declare what is packed, and the settings of the plan; see ``PlanSettings.add_arguments``."""
    parser.add_argument(
        "prefixes",
        nargs="*",
        metavar="PREFIX[:EPOCHS]",
        help="a corpus, PREFIX.bin and PREFIX.idx; several are packed together, each EPOCHS times "
        "(default: 1)",
    )
    parser.add_argument(
        "--lengths",
        type=Path,
        metavar="FILE.npy",
        help="in place of a corpus: an array of positions (tokens less one) of each document "
        "(default: none)",
    )
    PlanSettings.add_arguments(parser, without=without, overrides=overrides)
    parser.add_argument(
        "--allow-other-tokenizer",
        action="store_true",
        help="pack corpora together that were tokenized with different tokenizers "
        "(default: refuse them)",
    )


def open_documents(args: Namespace) -> Documents:
    """Open what is to be packed.

    Raises:
        InputError: Neither or both of corpora and a file of lengths were given, or one cannot be
            opened.
    """
    if bool(args.prefixes) == (args.lengths is not None):
        corpora = counted(len(args.prefixes), "corpus", "corpora")
        raise InputError(
            f"{corpora} and {'a' if args.lengths else 'no'} --lengths file were given; give one "
            f"PREFIX or more, or --lengths FILE.npy"
        )
    return LengthsFile(args.lengths) if args.lengths else open_corpus(",".join(args.prefixes))


def refuse_other_tokenizers(documents: Documents, args: Namespace) -> None:
    """Refuse corpora of different tokenizers, unless that is asked for.

    Raises:
        InputError: See ``check_same_tokenizer``.
    """
    if isinstance(documents, Corpus | JoinedCorpus) and not args.allow_other_tokenizer:
        check_same_tokenizer([(str(part.prefix), part.record) for part in documents.corpora])


def describe_use(corpus: Corpus | JoinedCorpus) -> list[str]:
    """What a user must know of how corpora are used, a line each."""
    lines = [
        f"{part.prefix} has no loss mask: all of its tokens are trained"
        for part in corpus.corpora
        if not part.has_loss_mask
    ]
    known = [part.prefix for part in corpus.corpora if _names_tokenizer(part)]
    unknown = [part.prefix for part in corpus.corpora if not _names_tokenizer(part)]
    if known and unknown:
        lines.append(
            f"{unknown[0]} does not say which tokenizer it was made with, so nothing shows that "
            f"its tokens mean the texts that they mean in {known[0]}"
        )
    for prefix, count in Counter(part.prefix for part in corpus.corpora).items():
        if count > 1:
            lines.append(f"{prefix} is given {count} times: its documents are read as often")
    if isinstance(corpus, JoinedCorpus) and corpus.changes_each_epoch:
        lines.append(
            f"{corpus.prefix}: a fraction of an epoch is another part of the documents in each "
            f"epoch of training"
        )
    return lines


def _names_tokenizer(corpus: Corpus) -> bool:
    return corpus.record is not None and corpus.record.tokenizer_sha256 is not None
