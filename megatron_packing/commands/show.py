"""``megatron-packing show``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from megatron_packing.corpus.joined import open_corpus
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.report.console import console
from megatron_packing.report.figures import describe_index
from megatron_packing.report.show import find_tokenizer, show_pack

HELP = "print an index's figures, or one of its packs readably"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("index", type=Path, metavar="DIR", help="a pack index")
    parser.add_argument("--pack", type=int, metavar="I", help="the pack to print")
    parser.add_argument(
        "--corpus", type=Path, metavar="PREFIX", help="default: where the index was made from"
    )
    parser.add_argument(
        "--tokenizer", metavar="PATH_OR_NAME", help="default: the one the corpus was made with"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=80,
        metavar="N",
        help="tokens of each document (default 80)",
    )


def run(args: Namespace) -> None:
    """Show."""
    index = PackIndex.open(args.index)
    if args.pack is None:
        console.print(describe_index(index))
        return
    if not 0 <= args.pack < len(index):
        raise InputError(f"--pack is {args.pack}; {args.index} has packs 0 to {len(index) - 1}")
    corpus = open_corpus(args.corpus or index.corpus.prefix)
    index.check_corpus(corpus.prefix, corpus.fingerprint)
    tokenizer = find_tokenizer(corpus.prefix, args.tokenizer)
    show_pack(index, corpus, args.pack, tokenizer, args.max_tokens)
