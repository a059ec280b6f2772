# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing verify``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from megatron_packing.commands.planning import describe_use
from megatron_packing.corpus.corpus import Documents
from megatron_packing.corpus.lengths_file import LengthsFile
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.index.trained import share_read
from megatron_packing.index.verify import prove_lower_bound, verify_content, verify_pack_index
from megatron_packing.report.console import console, progress_bar
from megatron_packing.report.figures import index_record

HELP = "prove that an index holds every document exactly once and no pack is overfull"
EXAMPLE = "megatron-packing verify data/packs"
JSON_KEYS = {
    "index": "the folder that was verified and is right",
    "plan": "the settings of the plan",
    "corpus": "what it was made from: prefix, fingerprint, first document, number of documents",
    "figures": "as in manifest.json: packs, lower bound, positions, utilisation, what was left out",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("index", type=Path, metavar="DIR", help="a pack index")
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="PREFIX",
        help="the corpus, or the file of --lengths (default: where the index was made from)",
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="read all tokens and compare hashes of all data with those that pack kept "
        "(default: prove the packs and read the loss masks)",
    )


def run(args: Namespace) -> dict[str, Any]:
    """Verify."""
    index = PackIndex.open(args.index)
    corpus: Documents
    notes: list[str] = []
    if index.corpus.fingerprint.startswith("lengths-"):
        if args.deep:
            raise InputError(f"{args.index} was made from lengths: there are no tokens for --deep")
        corpus = LengthsFile(args.corpus or index.corpus.prefix)
        index.check_corpus(corpus.prefix, corpus.fingerprint)
        verify_pack_index(index, corpus.num_tokens)
    else:
        corpus = open_source(index, args.corpus)
        verify_pack_index(index, corpus.num_tokens)
        with progress_bar("reading the corpus", 1) as bar:
            on_read = share_read(
                corpus, tokens=args.deep, progress=lambda share: bar.update(share, "")
            )
            verify_content(index, corpus, deep=args.deep, on_read=on_read)
        notes += describe_use(corpus)
    bound = prove_lower_bound(index, corpus.num_tokens)
    if bound < index.figures.lower_bound:
        notes.append(
            f"the lower bound {index.figures.lower_bound:,} is not confirmed: this release proves "
            f"{bound:,}"
        )
    elif bound > index.figures.lower_bound:
        notes.append(
            f"this release proves a lower bound of {bound:,}, more than the "
            f"{index.figures.lower_bound:,} of the manifest"
        )
    if not index.has_manifest_digest:
        notes.append(
            "it was written before manifests had a digest: nothing proves that the strategy and "
            "the seed in its manifest are those of its plan"
        )
    figures = index.figures
    left_out = {
        "dropped": figures.num_documents_dropped,
        "truncated": figures.num_documents_truncated,
        "of fewer than two tokens": figures.num_documents_empty,
    }
    counts = ", ".join(f"{count:,} {what}" for what, count in left_out.items() if count)
    console.print(
        f"{args.index} is right: {counted(index.num_documents, 'document')} exactly once "
        f"in {counted(len(index), 'pack')}, none over {index.plan.sequence_length:,} positions"
        + (f"; left out as planned: {counts}" if counts else "")
    )
    untrained = {
        "document": index.figures.num_documents_untrained,
        "pack": index.figures.num_packs_untrained,
    }
    notes += [
        f"{counted(count, what)} of it {'trains' if count == 1 else 'train'} nothing"
        for what, count in untrained.items()
        if count
    ]
    if args.deep:
        console.print(f"all data of {corpus.prefix} are what was packed (hashes are equal)")
    for note in notes:
        console.print(f"note: {note}")
    return index_record(index)
