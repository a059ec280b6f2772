# SPDX-License-Identifier: Apache-2.0
"""Exports a pack index to the packed file formats of NeMo and Megatron-Bridge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from megatron_packing.corpus.corpus import TokenDocuments
from megatron_packing.errors import InputError
from megatron_packing.files.whole import new_folder, sync
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.interchange.checksums import write_checksums
from megatron_packing.interchange.npy_file import write_npy
from megatron_packing.interchange.packed_tokenizer import KEY, tokenizer_of
from megatron_packing.interchange.packed_tokenizer import METADATA as METADATA
from megatron_packing.interchange.parquet_file import write_parquet
from megatron_packing.interchange.stored_rows import (
    LARGEST_TOKEN,
    StoredFigures,
    StoredRow,
    rows_of,
)

ExportFormat = Literal["bridge-parquet", "nemo-npy"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

_FILES: dict[ExportFormat, str] = {"bridge-parquet": "packs.idx.parquet", "nemo-npy": "packs.npy"}


def export_packs(
    index: PackIndex,
    corpus: TokenDocuments,
    path: Path,
    *,
    file_format: ExportFormat,
    end_token: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[Path, StoredFigures]:
    """Write the packs of an index, in order, and their metadata to the folder ``path``.

    ``SHA256SUMS`` holds the hashes of both files; ``import`` checks them. The corpus's tokenizer is
    recorded as described in ``packed_tokenizer``.

    Rows are written as they are read, so memory does not grow with the corpus. The folder is
    written atomically.

    Args:
        index: A pack index.
        corpus: The corpus that it was made from.
        path: A folder that does not exist.
        file_format: ``bridge-parquet`` (Megatron-Bridge 0.4 and later) or ``nemo-npy`` (NeMo 2.x
            and Megatron-Bridge 0.3).
        end_token: The id of the tokenizer's end token (``eos_id``), by which readers find pads.
        progress: Called with the number of packs written.

    Returns:
        The file with the packs, and the figures of what was written.

    Raises:
        InputError: ``path`` exists, an argument is invalid, or the corpus has an invalid token.
    """
    if file_format not in EXPORT_FORMATS:
        raise InputError(f"the format is {file_format!r}; use {' or '.join(EXPORT_FORMATS)}")
    if not 0 <= end_token <= LARGEST_TOKEN:
        raise InputError(
            f"the end token is {end_token}; give the tokenizer's eos_id, from 0 to {LARGEST_TOKEN}"
        )
    figures = StoredFigures()

    def counted() -> Iterator[StoredRow]:
        for row in rows_of(index, corpus, end_token):
            figures.add(row, end_token)
            yield row
            if progress is not None:
                progress(figures.num_packs)

    name = _FILES[file_format]
    tokenizer = tokenizer_of(corpus)
    with new_folder(path) as unfinished:
        if file_format == "bridge-parquet":
            keys = {} if tokenizer is None else {KEY: json.dumps(tokenizer)}
            write_parquet(unfinished / name, counted(), len(index), keys)
        else:
            write_npy(unfinished / name, counted(), len(index))
        sync(unfinished / name)
        metadata = figures.metadata(index.plan.sequence_length)
        if file_format == "nemo-npy" and tokenizer is not None:
            metadata[0][KEY] = {"file": name, **tokenizer}
        (unfinished / METADATA).write_text(json.dumps(metadata) + "\n", encoding="utf-8")
        sync(unfinished / METADATA)
        write_checksums(unfinished, [name, METADATA])
    return path / name, figures
