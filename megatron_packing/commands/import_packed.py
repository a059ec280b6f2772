# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing import``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_packing.counted import counted
from megatron_packing.errors import missing
from megatron_packing.interchange.import_packed import import_packed
from megatron_packing.interchange.packed_files import find_packed_files, packed_folders_below
from megatron_packing.report.console import console, progress_bar

HELP = "make a corpus of packed files that NeMo or Megatron-Bridge wrote"
EXAMPLE = "megatron-packing import data/bridge --output-prefix data/from_bridge"
JSON_KEYS = {
    "prefix": "of the corpus that was written",
    "files": "the packed files that were read",
    "num_packs": "packs in them",
    "num_documents": "documents of the corpus",
    "num_tokens": "tokens of the documents",
    "num_trained_tokens": "tokens that are trained",
    "num_padding_tokens": "tokens that were left out as padding",
    "largest_token": "the largest token id",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="FILE", help=".npy or .parquet, or folders of them"
    )
    parser.add_argument(
        "--output-prefix",
        type=Path,
        required=True,
        metavar="PREFIX",
        help="writes PREFIX.bin, PREFIX.idx, ...",
    )
    parser.add_argument(
        "--padding-token",
        type=int,
        metavar="ID",
        help="leave out this token where it pads a sequence: the tokenizer's eos_id; for files "
        "made with pad_seq_to_mult over 1 (default: it stays in the documents, untrained)",
    )
    parser.add_argument(
        "--mix-splits",
        action="store_true",
        help="put files of training, validation and test, by their names, into one corpus "
        "(default: refuse them)",
    )
    parser.add_argument(
        "--allow-other-tokenizer",
        action="store_true",
        help="put files that were made with different tokenizers into one corpus "
        "(default: refuse them)",
    )


def run(args: Namespace) -> dict[str, Any]:
    """Import."""
    files = find_packed_files(args.inputs, mix_splits=args.mix_splits)
    folders = [path for path in args.inputs if path.is_dir()]
    left_out = [below for folder in folders for below in packed_folders_below(folder)]
    for below in sorted(set(left_out) - set(folders)):
        console.print(f"note: the packed files in {below} are left out; name it to import them")
    notes: list[str] = []
    try:
        with progress_bar("importing", 1) as progress:
            figures = import_packed(
                files,
                args.output_prefix,
                padding_token=args.padding_token,
                mix_splits=args.mix_splits,
                allow_other_tokenizer=args.allow_other_tokenizer,
                progress=lambda packs: progress.update(0, counted(packs, "pack")),
                note=notes.append,
            )
    except ModuleNotFoundError as error:
        raise missing("Parquet", str(error.name), "tokenize") from error
    console.print(
        f"{args.output_prefix}: {counted(figures.num_packs, 'pack')} of "
        f"{counted(len(files), 'file')} = {counted(figures.num_documents, 'document')}"
    )
    share = figures.num_trained_tokens / figures.num_tokens
    pads = figures.num_padding_tokens
    console.print(
        f"{counted(figures.num_tokens, 'token')}, {figures.num_trained_tokens:,} of them trained "
        f"({share:.1%})" + (f"; {pads:,} of padding left out" if pads else "")
    )
    for note in notes:
        console.print(f"note: {note}")
    return {
        "prefix": str(args.output_prefix),
        "files": [str(file) for file in files],
        **asdict(figures),
    }
