"""``megatron-packing show``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from megatron_packing.corpus.joined import open_corpus
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.report.console import console
from megatron_packing.report.figures import describe_index
from megatron_packing.report.show import show_document, show_pack, tokenizer_of

HELP = "print an index's figures, one of its packs, or a document of a corpus readably"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "path", type=Path, metavar="DIR|PREFIX", help="a pack index; with --document, a corpus"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--pack", type=int, metavar="I", help="the pack to print")
    what.add_argument("--document", type=int, metavar="I", help="the document to print")
    parser.add_argument(
        "--corpus", type=Path, metavar="PREFIX", help="default: where the index was made from"
    )
    parser.add_argument(
        "--tokenizer", metavar="PATH_OR_NAME", help="default: the one the corpus was made with"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="tokens of each document (default: 80 in a pack, else 4096)",
    )


def run(args: Namespace) -> None:
    """Show."""
    if args.max_tokens is not None and args.max_tokens < 1:
        raise InputError(f"--max-tokens is {args.max_tokens}; it must be positive")
    if args.document is not None:
        _show_document(args)
        return
    index = PackIndex.open(args.path)
    if args.pack is None:
        console.print(describe_index(index))
        return
    if not 0 <= args.pack < len(index):
        raise InputError(f"--pack is {args.pack}; {args.path} has packs 0 to {len(index) - 1}")
    corpus = open_source(index, args.corpus)
    tokenizer = tokenizer_of(corpus.prefix, args.tokenizer)
    show_pack(index, corpus, args.pack, tokenizer, args.max_tokens or 80)


def _show_document(args: Namespace) -> None:
    corpus = open_corpus(args.path)
    if not 0 <= args.document < len(corpus):
        raise InputError(
            f"--document is {args.document}; {args.path} has documents 0 to {len(corpus) - 1}"
        )
    tokenizer = tokenizer_of(corpus.prefix, args.tokenizer)
    show_document(corpus, args.document, tokenizer, args.max_tokens or 4096)
