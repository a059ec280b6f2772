"""``megatron-packing tokenize``."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from megatron_packing.corpus.tokenize import CorpusFigures, TokenizeOptions, tokenize
from megatron_packing.report.console import console, progress_bar

HELP = "turn conversations into a Megatron corpus with loss masks"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT.jsonl")
    parser.add_argument(
        "--output-prefix", type=Path, required=True, metavar="P", help="writes P.bin, P.idx, ..."
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="PATH_OR_NAME",
        help="a folder with a tokenizer.json, such a file, or a name that transformers can find",
    )
    parser.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="instead of the tokenizer's own"
    )
    parser.add_argument(
        "--workers", type=int, default=None, metavar="N", help="default: one for each core"
    )


def run(args: Namespace) -> None:
    """Tokenise."""
    options = TokenizeOptions(
        inputs=tuple(args.inputs),
        output_prefix=args.output_prefix,
        tokenizer=args.tokenizer,
        chat_template=args.chat_template,
        workers=len(os.sched_getaffinity(0)) if args.workers is None else args.workers,
    )
    total = sum(path.stat().st_size for path in args.inputs if path.is_file())
    with progress_bar("tokenizing", total) as progress:

        def show(bytes_done: int, figures: CorpusFigures) -> None:
            progress.update(
                bytes_done,
                f"{figures.num_documents:,} documents, {figures.num_tokens:,} tokens",
            )

        figures = tokenize(options, show)
    console.print(
        f"{args.output_prefix}: {figures.num_documents:,} documents, "
        f"{figures.num_tokens:,} tokens, {figures.num_trained_tokens:,} of them trained "
        f"({figures.num_trained_tokens / figures.num_tokens:.1%}); "
        f"longest document {figures.longest_document:,} tokens"
    )
