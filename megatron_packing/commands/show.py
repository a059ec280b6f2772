# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing show``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from megatron_packing.corpus.joined import open_corpus
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.report.console import console
from megatron_packing.report.figures import describe_index, index_record
from megatron_packing.report.places import print_places, show_left_out
from megatron_packing.report.show import show_corpus, show_document, show_pack, tokenizers_of

HELP = "print figures of an index or of a corpus, one pack, or one document, readably"
EXAMPLE = "megatron-packing show data/packs --pack 7"
JSON_KEYS = {
    "index": "of an index: its folder; beside it plan, corpus, figures as in manifest.json",
    "corpus": "of a corpus: its prefix; beside it num_documents, num_tokens, "
    "num_trained_tokens, has_loss_mask, tokens_per_document, record",
    "pack": "with --pack: its number; beside it num_packs, num_positions, segments, each with "
    "document, corpus, document_of_corpus, row_position, first_position, num_positions, tokens, "
    "trained, text",
    "document": "with --document: its number; beside it corpus, document_of_corpus, tokens, "
    "trained (0 or 1 for each token), text; of an index also segments, each with pack, "
    "row_position, first_position, num_positions",
    "left_out": "with --left-out: the documents that no pack holds whole, each with document, "
    "corpus, document_of_corpus, num_tokens, num_positions_left_out; beside it index, "
    "num_documents",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("path", metavar="DIR|PREFIX", help="a pack index, or a corpus")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--pack",
        type=int,
        metavar="I",
        help="print this pack; the first is 0 (default: the figures of all)",
    )
    what.add_argument(
        "--document",
        type=int,
        metavar="I",
        help="print this document; the first is 0; of an index, also the packs that have it "
        "(default: the figures of all)",
    )
    what.add_argument(
        "--left-out",
        action="store_true",
        help="list the documents that no pack of the index holds whole: dropped, cut, or of under "
        "2 tokens (default: the figures of all)",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="PREFIX",
        help="the corpus of the index (default: where the index was made from)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH_OR_NAME",
        help="what decodes tokens (default: the tokenizer that the corpus was made with)",
    )
    parser.add_argument(
        "--ids", action="store_true", help="print the ids of tokens (default: their text)"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="print so many tokens of each document (default: 80 in a pack, else 4096)",
    )


def run(args: Namespace) -> dict[str, Any]:
    """Show."""
    if args.max_tokens is not None and args.max_tokens < 1:
        raise InputError(f"--max-tokens is {args.max_tokens}; it must be positive")
    tokenizers = tokenizers_of(args.tokenizer, ids=args.ids)
    index = None
    if not Path(args.path).is_dir() and args.pack is None and not args.left_out:
        corpus = open_corpus(args.path)
        if args.document is None:
            return show_corpus(corpus)
    else:
        index = PackIndex.open(args.path)
        if args.pack is None and args.document is None and not args.left_out:
            console.print(describe_index(index))
            return index_record(index)
        if args.pack is not None and not 0 <= args.pack < len(index):
            raise InputError(f"--pack is {args.pack}; {args.path} has packs 0 to {len(index) - 1}")
        corpus = open_source(index, args.corpus)
        if args.pack is not None:
            return show_pack(index, corpus, args.pack, tokenizers, args.max_tokens or 80)
        if args.left_out:
            return show_left_out(index, corpus)
    if not 0 <= args.document < len(corpus):
        raise InputError(
            f"--document is {args.document}; {args.path} has documents 0 to {len(corpus) - 1}"
        )
    shown = show_document(corpus, args.document, tokenizers, args.max_tokens or 4096)
    if index is not None:
        shown["segments"] = print_places(index, corpus.num_tokens, args.document)
    return shown
