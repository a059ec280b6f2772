# SPDX-License-Identifier: Apache-2.0
"""Reads what other tools curated: deduplicated, filtered and scored elsewhere.

    python examples/curated.py DIR --tokenizer PATH

megatron-packing neither deduplicates nor filters. What the tools that do write is read as it is:

    datatrove       folders of Parquet or gzipped JSON Lines, a file a rank: text, id, metadata
    NeMo Curator    folders of JSON Lines or Parquet, a file a partition, columns of its own beside

Fields that are not asked for are left alone, so a score may stay in the record. This script runs a
small datatrove pipeline (a filter, and its own writer), writes JSON Lines as NeMo Curator does, and
tokenizes both folders as these commands do:

    megatron-packing tokenize 'DIR/datatrove/*.parquet' --schema text ...
    megatron-packing tokenize 'DIR/curator/*.jsonl' --schema text ...
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from megatron_packing import Corpus
from megatron_packing.tokenize.run import TokenizeOptions, tokenize

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "short",
    "A text that is long enough to be kept by the filter below.",
]


def curate_with_datatrove(folder: Path) -> None:
    """Keep texts of 20 characters and more, as any datatrove pipeline would."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.writers import ParquetWriter

    documents = [Document(text=text, id=str(number)) for number, text in enumerate(TEXTS)]
    LocalPipelineExecutor(
        pipeline=[
            documents,
            LambdaFilter(lambda document: len(document.text) >= 20),
            ParquetWriter(str(folder)),
        ],
        logging_dir=str(folder.parent / "logs"),
    ).run()


def curate_like_nemo(folder: Path) -> None:
    """Write partitions of JSON Lines with the fields that NeMo Curator leaves."""
    folder.mkdir(parents=True)
    for number, text in enumerate(text for text in TEXTS if len(text) >= 20):
        row = {"id": f"doc-{number}", "text": text, "quality_score": 0.9}
        (folder / f"part.{number}.jsonl").write_text(json.dumps(row) + "\n")


def main() -> None:
    """Curate and tokenize."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", required=True)
    args = parser.parse_args()
    curate_with_datatrove(args.folder / "datatrove")
    curate_like_nemo(args.folder / "curator")
    for name, pattern in (("datatrove", "*.parquet"), ("curator", "*.jsonl")):
        prefix = args.folder / f"corpus_{name}"
        options = TokenizeOptions(
            inputs=[args.folder / name / pattern],
            output_prefix=prefix,
            tokenizer=args.tokenizer,
            schema="text",
        )
        progress = tokenize(options)
        print(f"{name}: {progress.num_documents} documents, {Corpus(prefix).num_tokens} tokens")


if __name__ == "__main__":
    main()
