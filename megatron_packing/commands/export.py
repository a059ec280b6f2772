"""``megatron-packing export``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.nemo.export import EXPORT_FORMATS, METADATA, export_packs
from megatron_packing.report.console import console, progress_bar

HELP = "write packs in a format that NeMo or Megatron-Bridge reads on its own"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("index", type=Path, metavar="DIR", help="a pack index")
    parser.add_argument(
        "--format",
        choices=EXPORT_FORMATS,
        required=True,
        help="bridge-parquet: Megatron-Bridge 0.4 and later; nemo-npy: NeMo 2.x, Bridge 0.3",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--end-token",
        type=int,
        required=True,
        metavar="ID",
        help="the tokenizer's eos_id, by which the readers know padding",
    )
    parser.add_argument(
        "--corpus", type=Path, metavar="PREFIX", help="default: where the index was made from"
    )


def run(args: Namespace) -> None:
    """Export."""
    index = PackIndex.open(args.index)
    corpus = open_source(index, args.corpus)
    try:
        with progress_bar("exporting", len(index)) as progress:
            file, figures = export_packs(
                index,
                corpus,
                args.output,
                file_format=args.format,
                end_token=args.end_token,
                progress=lambda packs: progress.update(packs, f"{packs:,} packs"),
            )
    except ModuleNotFoundError as error:
        raise InputError(
            f"--format {args.format} needs the package {error.name}: pip install {error.name}"
        ) from error
    console.print(
        f"{args.output}: {figures.num_packs:,} packs, {figures.num_segments:,} sequences, "
        f"{figures.num_trained:,} trained labels"
    )
    settings = {
        "packed_train_data_path": f"{file}",
        "packed_metadata_path": f"{args.output / METADATA}",
        "packed_sequence_size": index.plan.sequence_length,
        "pad_seq_to_mult": index.plan.alignment,
    }
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    console.print(f"PackedSequenceSpecs({arguments})")
    if not figures.num_with_end:
        console.print(
            f"note: no document holds token {args.end_token}: is it the tokenizer's eos_id?"
        )
    if figures.num_after_end:
        console.print(
            f"note: {figures.num_after_end:,} trained labels come right after token "
            f"{args.end_token}, where the readers of this format train nothing; "
            f"megatron-packing's own provider does"
        )
    if args.format == "nemo-npy" and figures.num_with_inner_end:
        console.print(
            f"note: {figures.num_with_inner_end:,} sequences hold token {args.end_token} before "
            f"their end, where NeMo 2.x ends their attention: train them with Megatron-Bridge, or "
            f"without export"
        )
