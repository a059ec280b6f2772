# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing pack``."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np

from megatron_packing.commands.model_shape import add_model_name
from megatron_packing.commands.planning import (
    add_planning_arguments,
    describe_use,
    open_documents,
    refuse_other_tokenizers,
)
from megatron_packing.commands.waiting import (
    add_waiting_arguments,
    check_waiting_arguments,
    show_waiting,
)
from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.errors import InputError
from megatron_packing.flops.models import MODELS
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.rows import rows_of_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.report.console import console, progress_bar
from megatron_packing.report.figures import describe_index, index_record

HELP = "plan the packs of a corpus and write a pack index"
EXAMPLE = (
    "megatron-packing pack data/chat --sequence-length 4096 --overlong split --output data/packs"
)
JSON_KEYS = {
    "index": "the folder that was written",
    "plan": "the settings of the plan",
    "corpus": "what it was made from: prefix, fingerprint, first document, number of documents",
    "figures": "as in manifest.json: packs, lower bound, positions, utilisation, what was left out",
    "seconds": "of planning, hashing and writing",
    "waiting": "for each order of packs how long ranks wait; empty without --data-parallel",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_planning_arguments(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the pack index to write"
    )
    parser.add_argument(
        "--documents",
        metavar="FIRST:STOP",
        help="pack only this range, as Megatron's --split does; the first document is 0 "
        "(default: all)",
    )
    parser.add_argument(
        "--no-content-hashes",
        action="store_true",
        help="do not read all tokens: faster for huge corpora, but verify --deep cannot prove "
        "that they are unchanged (default: read and hash them)",
    )
    add_model_name(add_waiting_arguments(parser))


def run(args: Namespace) -> dict[str, Any]:
    """Pack."""
    check_waiting_arguments(args)
    corpus = open_documents(args)
    refuse_other_tokenizers(corpus, args)
    if isinstance(corpus, Corpus | JoinedCorpus):
        for line in describe_use(corpus):
            console.print(line)
    settings = PlanSettings.from_arguments(args)
    documents = _parse_range(args.documents, len(corpus)) if args.documents else None
    started = time.perf_counter()
    with progress_bar("packing", 1) as progress:
        index = build_pack_index(
            corpus,
            settings,
            args.output,
            documents=documents,
            progress=lambda share: progress.update(share, ""),
            hash_content=not args.no_content_hashes,
            reading=lambda share: progress.update(share, "reading the corpus"),
        )
    console.print(describe_index(index))
    seconds = time.perf_counter() - started
    console.print(f"wrote {args.output} in {seconds:.2f} s")
    waiting = {}
    if args.data_parallel is not None:
        console.print()
        rows = rows_of_index(index, np.asarray(corpus.num_tokens))
        waiting = show_waiting(rows, MODELS[args.model], args)
    return {**index_record(index), "seconds": seconds, "waiting": waiting}


def _parse_range(text: str, num_documents: int) -> range:
    first, colon, stop = text.partition(":")
    if colon and first.isdecimal() and stop.isdecimal():
        documents = range(int(first), int(stop))
        if documents and documents.stop <= num_documents:
            return documents
    raise InputError(
        f"--documents is {text!r}; give FIRST:STOP with 0 <= FIRST < STOP <= {num_documents}"
    )
