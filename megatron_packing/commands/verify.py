"""``megatron-packing verify``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from megatron_packing.corpus.corpus import Documents
from megatron_packing.corpus.lengths_file import LengthsFile
from megatron_packing.counted import counted
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.index.verify import verify_pack_index
from megatron_packing.report.console import console
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
        "--corpus", type=Path, metavar="PREFIX", help="default: where the index was made from"
    )


def run(args: Namespace) -> dict[str, Any]:
    """Verify."""
    index = PackIndex.open(args.index)
    corpus: Documents
    if args.corpus is None and index.corpus.fingerprint.startswith("lengths-"):
        corpus = LengthsFile(index.corpus.prefix)
        index.check_corpus(corpus.prefix, corpus.fingerprint)
    else:
        corpus = open_source(index, args.corpus)
    verify_pack_index(index, corpus.num_tokens)
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
    return index_record(index)
