# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing export``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_packing.commands.end_token import choose_end_token
from megatron_packing.corpus.joined import split_entry
from megatron_packing.counted import counted
from megatron_packing.errors import missing
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.interchange.export import EXPORT_FORMATS, METADATA, export_packs
from megatron_packing.report.console import console, progress_bar

HELP = "write packs in a format that NeMo or Megatron-Bridge reads on its own"
EXAMPLE = "megatron-packing export data/packs --format bridge-parquet --output data/bridge"
JSON_KEYS = {
    "packs": "the file of the packs",
    "metadata": "the file of the metadata",
    "end_token": "the id of the end token",
    "packed_sequence_specs": "what Megatron-Bridge or, of nemo-npy, NeMo is to be given",
    "figures": "what was written: packs, segments, trained labels, labels after an end token, ...",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("index", type=Path, metavar="DIR", help="a pack index")
    parser.add_argument(
        "--format",
        choices=EXPORT_FORMATS,
        required=True,
        help="bridge-parquet: Megatron-Bridge 0.4 and later; nemo-npy: NeMo 2.x, Bridge 0.3",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the folder to write"
    )
    parser.add_argument(
        "--end-token",
        metavar="ID_OR_TEXT",
        help="by which the readers know padding: an id, or a text such as '</s>' (default: the "
        "eos_token of the tokenizer that the corpus was made with)",
    )
    parser.add_argument(
        "--allow-other-tokenizer",
        action="store_true",
        help="accept corpora of different tokenizers, and an end token that is not the tokenizer's "
        "(default: refuse them)",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="PREFIX",
        help="the corpus of the index (default: where the index was made from)",
    )


def run(args: Namespace) -> dict[str, Any]:
    """Export."""
    index = PackIndex.open(args.index)
    corpus = open_source(index, args.corpus)
    end_token = choose_end_token(
        args.end_token,
        [Path(split_entry(entry)[0]) for entry in str(corpus.prefix).split(",")],
        allow_other=args.allow_other_tokenizer,
        note=lambda text: console.print(f"note: {text}"),
    )
    try:
        with progress_bar("exporting", len(index)) as progress:
            file, figures = export_packs(
                index,
                corpus,
                args.output,
                file_format=args.format,
                end_token=end_token,
                progress=lambda packs: progress.update(packs, counted(packs, "pack")),
            )
    except ModuleNotFoundError as error:
        raise missing(f"--format {args.format}", str(error.name), "tokenize") from error
    console.print(
        f"{args.output}: {counted(figures.num_packs, 'pack')}, "
        f"{counted(figures.num_segments, 'sequence')}, "
        f"{counted(figures.num_trained, 'trained label')}"
    )
    settings: dict[str, str | int] = {
        "packed_train_data_path": f"{file}",
        "packed_metadata_path": f"{args.output / METADATA}",
        "packed_sequence_size": index.plan.sequence_length,
    }
    aligned = {**settings, "pad_seq_to_mult": index.plan.alignment}
    if args.format == "bridge-parquet":
        settings = aligned
        console.print(_specs(settings))
    elif index.plan.alignment == 1:
        console.print(f"NeMo 2.x or Megatron-Bridge 0.3: {_specs(settings)}")
    else:  # NeMo's PackedSequenceSpecs has no pad_seq_to_mult: it reads pads as they are
        console.print(f"NeMo 2.x: {_specs(settings)}")
        console.print(f"Megatron-Bridge 0.3: {_specs(aligned)}")
    if not figures.num_with_end:
        console.print(f"note: no document holds token {end_token}: is it the tokenizer's eos_id?")
    if figures.num_after_end:
        console.print(
            f"note: {counted(figures.num_after_end, 'trained label comes', 'trained labels come')} "
            f"right after token {end_token}, where Megatron-Bridge before 0.7 trains nothing; "
            f"use_packed_data trains them with any release"
        )
    if args.format == "nemo-npy" and figures.num_with_inner_end:
        console.print(
            f"note: {counted(figures.num_with_inner_end, 'sequence holds', 'sequences hold')} "
            f"token {end_token} before the end, where NeMo 2.x ends attention: train with "
            f"Megatron-Bridge, or from the pack index itself"
        )
    return {
        "packs": str(file),
        "metadata": str(args.output / METADATA),
        "end_token": end_token,
        "packed_sequence_specs": settings,
        "figures": asdict(figures),
    }


def _specs(settings: Mapping[str, object]) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return f"PackedSequenceSpecs({arguments})"
