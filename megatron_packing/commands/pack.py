"""``megatron-packing pack``."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from megatron_packing.corpus.corpus import Documents
from megatron_packing.corpus.joined import open_corpus
from megatron_packing.corpus.lengths_file import LengthsFile
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PlanSettings
from megatron_packing.index.plan import EFFORTS, OVERLONG, STRATEGIES
from megatron_packing.report.console import console, progress_bar
from megatron_packing.report.figures import describe_index

HELP = "plan the packs of a corpus and write a pack index"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "prefixes",
        nargs="*",
        metavar="PREFIX[:EPOCHS]",
        help="of PREFIX.bin and PREFIX.idx; several are packed together, each so many times",
    )
    parser.add_argument(
        "--lengths",
        type=Path,
        metavar="FILE.npy",
        help="in place of a corpus: positions (tokens less one) of each document",
    )
    parser.add_argument(
        "--sequence-length", type=int, required=True, metavar="L", help="positions in a row"
    )
    parser.add_argument("--strategy", choices=STRATEGIES, default="optimal")
    parser.add_argument(
        "--effort",
        choices=EFFORTS,
        default="default",
        help="how long optimal looks for better packs where the lower bound is not met",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--overlong",
        choices=OVERLONG,
        default="error",
        help="what happens to documents longer than a row (default: error)",
    )
    parser.add_argument(
        "--alignment",
        type=int,
        default=1,
        metavar="A",
        help="each segment takes a multiple of A positions in its row",
    )
    parser.add_argument(
        "--max-documents-per-pack", type=int, default=None, metavar="N", help="default: no limit"
    )
    parser.add_argument(
        "--min-packs", type=int, default=0, metavar="N", help="divide packs until there are N"
    )
    parser.add_argument(
        "--packs-multiple-of",
        type=int,
        default=1,
        metavar="N",
        help="divide packs until their number is a multiple of N, such as the global batch size",
    )
    parser.add_argument(
        "--documents", metavar="FIRST:STOP", help="pack only this range, as Megatron's --split does"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")


def run(args: Namespace) -> None:
    """Pack."""
    corpus = _open(args)
    settings = PlanSettings(
        strategy=args.strategy,
        sequence_length=args.sequence_length,
        effort=args.effort,
        alignment=args.alignment,
        max_documents_per_pack=args.max_documents_per_pack,
        overlong=args.overlong,
        min_packs=args.min_packs,
        packs_multiple_of=args.packs_multiple_of,
        seed=args.seed,
    )
    documents = _parse_range(args.documents, len(corpus)) if args.documents else None
    started = time.perf_counter()
    with progress_bar("packing", 1) as progress:
        index = build_pack_index(
            corpus,
            settings,
            args.output,
            documents=documents,
            progress=lambda share: progress.update(share, ""),
        )
    console.print(describe_index(index))
    console.print(f"wrote {args.output} in {time.perf_counter() - started:.2f} s")


def _open(args: Namespace) -> Documents:
    if bool(args.prefixes) == (args.lengths is not None):
        raise InputError(
            f"{len(args.prefixes)} corpora and {'a' if args.lengths else 'no'} --lengths file were "
            f"given; give one PREFIX or more, or --lengths FILE.npy"
        )
    return LengthsFile(args.lengths) if args.lengths else open_corpus(",".join(args.prefixes))


def _parse_range(text: str, num_documents: int) -> range:
    first, colon, stop = text.partition(":")
    if colon and first.isdecimal() and stop.isdecimal():
        documents = range(int(first), int(stop))
        if documents and documents.stop <= num_documents:
            return documents
    raise InputError(
        f"--documents is {text!r}; give FIRST:STOP with 0 <= FIRST < STOP <= {num_documents}"
    )
