"""``megatron-packing import``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from megatron_packing.errors import InputError
from megatron_packing.nemo.import_packed import find_packed_files, import_packed
from megatron_packing.report.console import console, progress_bar

HELP = "make a corpus of packed files that NeMo or Megatron-Bridge wrote"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="FILE", help=".npy or .parquet, or folders of them"
    )
    parser.add_argument("--output-prefix", type=Path, required=True, metavar="PREFIX")
    parser.add_argument(
        "--padding-token",
        type=int,
        metavar="ID",
        help="leave out what sequences were padded with, which else stays in the documents, "
        "untrained: the tokenizer's eos_id; for files made with pad_seq_to_mult over 1",
    )


def run(args: Namespace) -> None:
    """Import."""
    files = find_packed_files(args.inputs)
    try:
        with progress_bar("importing", 1) as progress:
            figures = import_packed(
                files,
                args.output_prefix,
                padding_token=args.padding_token,
                progress=lambda packs: progress.update(0, f"{packs:,} packs"),
            )
    except ModuleNotFoundError as error:
        raise InputError(
            f"Parquet needs the package {error.name}: pip install {error.name}"
        ) from error
    console.print(
        f"{args.output_prefix}: {figures.num_packs:,} packs of {_count(len(files), 'file')} = "
        f"{figures.num_documents:,} documents"
    )
    share = figures.num_trained_tokens / figures.num_tokens
    console.print(
        f"{figures.num_tokens:,} tokens, {figures.num_trained_tokens:,} of them trained "
        f"({share:.1%})"
        + (
            f"; {figures.num_padding_tokens:,} of padding left out"
            if figures.num_padding_tokens
            else ""
        )
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
