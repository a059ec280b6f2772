# SPDX-License-Identifier: Apache-2.0
"""Imports packed files of NeMo or Megatron-Bridge into a corpus, without tokenizing again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import megatron_packing
from megatron_packing.corpus.corpus import Corpus, corpus_record_path, loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter, data_path, index_path
from megatron_packing.corpus.record import CorpusRecord
from megatron_packing.corpus.tokenizers_match import check_same_tokenizer
from megatron_packing.errors import InputError
from megatron_packing.files.publication import publish_files
from megatron_packing.files.whole import prefix_lock, sync, temporary_sibling, writing
from megatron_packing.interchange.checksums import check_checksum, sha256_of
from megatron_packing.interchange.npy_file import read_npy
from megatron_packing.interchange.packed_files import ADVICE, find_packed_files
from megatron_packing.interchange.packed_tokenizer import common_tokenizer, read_tokenizer
from megatron_packing.interchange.parquet_file import read_parquet
from megatron_packing.interchange.stored_rows import COLUMNS, StoredRow

_READERS = {".npy": read_npy, ".parquet": read_parquet, ".pq": read_parquet}
UNFINISHED_SUFFIX = ".unfinished"  # suffix of the folder of an unfinished tokenize run


@dataclass(slots=True)
class ImportFigures:
    """Counts of what was imported."""

    num_packs: int = 0
    num_documents: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    num_padding_tokens: int = 0
    """Tokens dropped as padding."""
    largest_token: int = 0


def import_packed(
    paths: Sequence[Path],
    prefix: Path,
    *,
    padding_token: int | None = None,
    mix_splits: bool = False,
    allow_other_tokenizer: bool = False,
    progress: Callable[[int], None] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> ImportFigures:
    """Write every sequence in packed files as a document of the corpus ``prefix``.

    Tokens and loss masks stay as stored. The grouping into packs is dropped; plan new packs with
    ``pack``. The tokens' ``.idx`` is written last: without it the corpus does not exist.

    Args:
        paths: ``.npy`` and ``.parquet`` files, or folders of them.
        prefix: The prefix of the new corpus.
        padding_token: The token that pads sequences for context parallelism (the tokenizer's end
            token). Untrained ones at a sequence's end are dropped, except the first. None keeps
            sequences as they are.
        mix_splits: Accept files whose names belong to different splits.
        allow_other_tokenizer: Accept files that record different tokenizers.
        progress: Called with the number of packs read.
        note: Called with each line that the user should know about the corpus.

    Raises:
        InputError: A file is invalid, files have different tokenizers, or the corpus exists.
    """
    files = find_packed_files(paths, mix_splits=mix_splits)
    tokenizers = {file: read_tokenizer(file) for file in files}
    if not allow_other_tokenizer:
        check_same_tokenizer([(str(file), record) for file, record in tokenizers.items()])
    tokenizer = common_tokenizer(list(tokenizers.values()))
    digests = {file: hashlib.sha256() for file in files}
    masks = loss_mask_prefix(prefix)
    targets = [data_path(masks), index_path(masks), corpus_record_path(prefix)]
    targets += [data_path(prefix), index_path(prefix)]  # renamed in this order
    figures = ImportFigures()
    with writing(prefix), prefix_lock(prefix), temporary_sibling(prefix) as folder:
        _refuse_existing(prefix, targets)
        unfinished = folder / prefix.name
        with (
            IndexedDatasetWriter(unfinished, np.dtype(np.int32)) as tokens,
            IndexedDatasetWriter(loss_mask_prefix(unfinished), np.dtype(np.uint8)) as trained,
        ):
            for file, row in _read(files):
                ids, mask, lengths = _documents(row, padding_token)
                for array, kind in ((lengths, "<i8"), (ids, "<i4"), (mask, "u1")):
                    digests[file].update(np.ascontiguousarray(array, kind))
                tokens.add(ids, lengths)
                trained.add(mask, lengths)
                figures.num_packs += 1
                figures.num_documents += len(lengths)
                figures.num_tokens += len(ids)
                figures.largest_token = max(figures.largest_token, int(ids.max(initial=0)))
                figures.num_trained_tokens += int(np.count_nonzero(mask))
                figures.num_padding_tokens += len(row.input_ids) - len(ids)
                if progress is not None:
                    progress(figures.num_packs)
        if figures.num_documents == 0:
            raise InputError(f"{files[0]} holds no packs; {ADVICE}")
        record = {
            "imported_from": [_describe(file) for file in files],
            "padding_token": padding_token,
            **(tokenizer or {}),
            **asdict(figures),
            "has_loss_mask": True,
            "files": Corpus(unfinished).known().files.as_json(),
            "versions": {"megatron-packing": megatron_packing.__version__},
        }
        path = corpus_record_path(unfinished)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        sync(path)
        try:
            publish_files(folder, targets)
        except FileExistsError:
            _refuse_existing(prefix, targets)
            raise
        sync(prefix.parent)
    for line in _notes({file: digest.digest() for file, digest in digests.items()}, tokenizers):
        note(line)
    return figures


def _notes(
    digests: Mapping[Path, bytes], tokenizers: Mapping[Path, CorpusRecord | None]
) -> Iterator[str]:
    """Yield lines that the user should know about the corpus.

    Args:
        digests: The digest of each file's documents, independent of its format.
        tokenizers: The tokenizer that each file records.
    """
    first_of: dict[bytes, Path] = {}
    for file, digest in digests.items():
        if digest == hashlib.sha256().digest():
            continue  # the file has no documents
        first = first_of.setdefault(digest, file)
        if first is not file:
            yield (f"{file} holds the same documents as {first}, so the corpus contains them twice")
    if common_tokenizer(list(tokenizers.values())) is not None:
        return
    silent = [
        file
        for file, record in tokenizers.items()
        if record is None or record.tokenizer_sha256 is None
    ]
    why = f"{silent[0]} does not name it" if silent else "the files have different ones"
    yield f"tokenizer not recorded, because {why}: training cannot check the model's tokenizer"


def _refuse_existing(prefix: Path, targets: Sequence[Path]) -> None:
    """Refuse a prefix with an existing corpus or an unfinished ``tokenize`` run."""
    for target in targets:
        if os.path.lexists(target):
            raise InputError(f"{target} exists already; remove it or choose another prefix")
    begun = prefix.with_name(prefix.name + UNFINISHED_SUFFIX)
    if begun.exists():
        raise InputError(
            f"{begun} holds an unfinished tokenize run; finish it with the same command, remove "
            f"that folder, or choose another prefix"
        )


def _read(files: Sequence[Path]) -> Iterator[tuple[Path, StoredRow]]:
    for file in files:
        for number, row in enumerate(_READERS[file.suffix.lower()](file)):
            problem = _problem_of(row)
            if problem:
                raise InputError(
                    f"{file} row {number} {problem}, so it is not a packed row; {ADVICE}"
                )
            yield file, row


def _problem_of(row: StoredRow) -> str:
    """Describe what is wrong with a row; "" if nothing is."""
    ids, mask, starts = row.input_ids, row.loss_mask, row.seq_start_id
    for name in COLUMNS:
        array = getattr(row, name)
        if array.ndim != 1:
            return f"has {name} of shape {array.shape}, not a list of integers"
    if len(ids) == 0:
        return "has no tokens"
    if len(mask) != len(ids):
        return f"has {len(ids)} input_ids but {len(mask)} loss_mask values"
    if len(starts) == 0 or starts[0] != 0:
        return f"has seq_start_id {starts[:3].tolist()}, which does not begin with 0"
    if (np.diff(starts) <= 0).any() or starts[-1] >= len(ids):
        return f"has a seq_start_id that does not increase or exceeds its {len(ids)} tokens"
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        return f"has token {int(ids.min() if ids.min() < 0 else ids.max())}, outside 0 to 2^31-1"
    if not np.isin(mask, (0, 1)).all():
        return f"has {int(mask[~np.isin(mask, (0, 1))][0])} in loss_mask, which is not 0 or 1"
    return ""


def _documents(
    row: StoredRow, padding_token: int | None
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.int64]]:
    """Return concatenated tokens, their loss masks, and the number of tokens of each document.

    A stored mask refers to the next token, a corpus's mask to the token itself.
    """
    ids, masks, lengths = [], [], []
    for segment in row.segments:
        tokens, trained = row.input_ids[segment], np.zeros(segment.stop - segment.start, np.uint8)
        trained[1:] = row.loss_mask[segment][:-1]
        count = len(tokens)
        if padding_token is not None:
            kept = np.flatnonzero((tokens != padding_token) | (trained != 0))
            if len(kept) == 0:
                continue  # only padding
            last = int(kept[-1])
            # Keep one untrained end token if the text has none before it: it ends the text.
            count = min(count, last + (1 if tokens[last] == padding_token else 2))
        ids.append(tokens[:count])
        masks.append(trained[:count])
        lengths.append(count)
    if not lengths:
        return row.input_ids[:0], np.zeros(0, np.uint8), np.zeros(0, np.int64)
    return np.concatenate(ids), np.concatenate(masks), np.array(lengths, np.int64)


def _describe(file: Path) -> dict[str, str | int]:
    digest = sha256_of(file)
    check_checksum(file, digest)
    return {"name": str(file), "bytes": file.stat().st_size, "sha256": digest}
