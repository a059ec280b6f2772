# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing probe``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from megatron_packing.commands.end_token import choose_end_token
from megatron_packing.corpus.joined import open_corpus
from megatron_packing.errors import InputError
from megatron_packing.probe.rows import ProbeDocuments
from megatron_packing.report.console import console, progress_bar
from megatron_packing.report.probe import describe_probe, probe_record

HELP = "measure how much documents attend to earlier ones in a row without a mask"
EXAMPLE = "megatron-packing probe Qwen3-0.6B data/chat --picture probe.svg"
JSON_KEYS = {
    "checkpoint": "the checkpoint; beside it corpus, num_documents, documents_per_row",
    "targets": "the names of what attention is given to, in the order of all shares",
    "alone": "each document alone in its row: loss, uniform, shares by layer, head and target",
    "variants": "of each variant: neighbors, positions, end_token, loss, loss_change with its "
    "standard_error, uniform, shares as in alone",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a folder of Hugging Face's with the model, or a .gguf file",
    )
    parser.add_argument(
        "prefixes",
        metavar="PREFIX[,PREFIX...]",
        help="corpora that were tokenized for the model; give several kinds of data to see what "
        "unlike neighbors do",
    )
    parser.add_argument(
        "--documents",
        type=int,
        default=32,
        metavar="N",
        help="measure so many documents (default: 32)",
    )
    parser.add_argument(
        "--documents-per-row",
        type=int,
        default=4,
        metavar="N",
        help="the measured document and those before it (default: 4)",
    )
    parser.add_argument(
        "--sequence-length",
        type=int,
        default=2048,
        metavar="N",
        help="positions of a row; documents of up to this / --documents-per-row tokens are used "
        "(default: 2048)",
    )
    parser.add_argument(
        "--end-token",
        action="append",
        metavar="ID_OR_TEXT",
        help="a token to try between documents, beside none; may be given several times (default: "
        "the tokenizer's eos_token)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="torch's name of the device that runs the model (default: cpu)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="chooses the documents (default: 0)"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="draw all layers and heads in this .svg, .png or .pdf (default: no picture)",
    )


def run(args: Namespace) -> dict[str, Any]:
    """Probe."""
    for name, least in (("documents", 2), ("documents_per_row", 2), ("sequence_length", 8)):
        if getattr(args, name) < least:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is {getattr(args, name)}; it must be {least} or more")
    if args.picture is not None:
        from megatron_packing.report.probe_picture import check_picture

        check_picture(args.picture)
    from megatron_packing.probe.measure import probe  # torch and transformers, for this verb alone

    corpus = open_corpus(args.prefixes)
    prefixes = [one.prefix for one in corpus.corpora]
    end_tokens = [
        choose_end_token(given, prefixes, may_be_any=True) for given in args.end_token or [None]
    ]
    documents = ProbeDocuments(
        corpus,
        num_documents=args.documents,
        documents_per_row=args.documents_per_row,
        sequence_length=args.sequence_length,
        seed=args.seed,
    )
    with progress_bar("probing", total=1.0) as bar:
        result = probe(
            args.checkpoint,
            documents,
            end_tokens,
            args.device,
            progress=lambda share: bar.update(share, ""),
        )
    console.print(describe_probe(result))
    if args.picture is not None:
        from megatron_packing.report.probe_picture import draw_probe

        draw_probe(result, args.picture)
        console.print(f"{args.picture}: each layer and head")
    return probe_record(result) | {"corpus": args.prefixes}
