# SPDX-License-Identifier: Apache-2.0
"""Find the pack index of each split, or make it.

Rank 0 makes an index while the other ranks poll for its files. No rank waits in a collective
operation, which NCCL would abort after some minutes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from megatron.core.datasets.utils import Split

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.errors import InputError, SettingError, UnreadableError
from megatron_packing.files.whole import open_patiently
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.manifest import MANIFEST
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import check_source
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.flags import flag_of_setting
from megatron_packing.megatron.object_storage import MegatronStorage
from megatron_packing.megatron.stored_indexes import local_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.ranks import (
    open_corpus_on_every_rank,
    open_on_every_rank,
    refuse_if_told,
    tell_waiting_ranks,
)
from megatron_packing.thd.row_shape import RowShape

logger = logging.getLogger(__name__)

_CACHE_FOLDER = "pack_indexes"
_PROGRESS_SECONDS = 10


def prepare_indexes(config: PackedDatasetConfig) -> None:
    """Find or make the index of every split of every corpus, on every rank.

    Call this before Megatron's dataset builder, whose other ranks wait in a barrier while rank 0
    builds (``BlendedMegatronDatasetBuilder.build_generic_dataset``).

    Args:
        config: The dataset config. ``packing_shape`` is set if it is None.

    Raises:
        InputError: As ``find_index`` does.
    """
    found = []
    for prefix, split, bounds in _corpora_and_splits(config):
        corpus = open_corpus_on_every_rank(prefix, storage_of(config))
        begin, end = (round(bound * float(len(corpus))) for bound in bounds)
        if begin < end:
            found.append(find_index(corpus, range(begin, end), split, config, quietly=True))
    if found and config.packing_shape is None:
        config.packing_shape = RowShape.of(found, config.packing_attention)


def storage_of(config: PackedDatasetConfig) -> MegatronStorage:
    """Reader settings for the corpora of a run."""
    return MegatronStorage(config.mmap_bin_files, config.object_storage_cache_path)


def corpora_of(config: PackedDatasetConfig) -> list[Corpus]:
    """Distinct corpora of all splits.

    Raises:
        InputError: A corpus cannot be opened.
    """
    prefixes = dict.fromkeys(prefix for prefix, _, _ in _corpora_and_splits(config))
    storage = storage_of(config)
    found = [
        one for prefix in prefixes for one in open_corpus_on_every_rank(prefix, storage).corpora
    ]
    return list({one.prefix: one for one in found}.values())


def _corpora_and_splits(
    config: PackedDatasetConfig,
) -> Iterator[tuple[str, Split, tuple[float, float]]]:
    """Yield (prefix, split, bounds as shares of the corpus) in the order of Megatron's builder."""
    if config.blend is not None:
        for prefix in config.blend[0]:
            for split, bounds in zip(Split, config.split_matrix, strict=True):
                if bounds is not None:
                    yield prefix, split, bounds
    for split, blend in zip(Split, config.blend_per_split or [None] * len(Split), strict=True):
        for prefix in blend[0] if blend is not None else ():
            yield prefix, split, (0.0, 1.0)


def find_index(
    corpus: Corpus | JoinedCorpus,
    documents: range,
    split: Split,
    config: PackedDatasetConfig,
    *,
    quietly: bool = False,
) -> PackIndex:
    """Find the pack index of a split, or make it on rank 0 while the others wait for it.

    Logs which of ``packing_indexes`` it uses, unless ``quietly``.

    Raises:
        InputError: None of the given indexes fits, one does not fit this run, or none can be made.
    """
    if config.packing_indexes:
        return _find_given(corpus, documents, split, config, quietly)
    settings = config.plan_settings(training=split is Split.train)
    folder = Path(config.path_to_cache or corpus.folder / "cache") / _CACHE_FOLDER
    identity = [corpus.fingerprint, documents.start, documents.stop, asdict(settings)]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    path = folder / name
    if not _is_builder():
        command = settings.command(str(corpus.prefix), documents)
        return _check(_wait_for(path, command, config), corpus, config)
    try:
        if not (path / MANIFEST).exists():
            _build(corpus, settings, path, documents)
        index = PackIndex.open(path)
        if index.plan != settings:
            raise InputError(
                f"the pack index {path} has a different plan than its name says; remove the folder"
            )
        return _check(index, corpus, config)
    except BaseException as error:
        tell_waiting_ranks(name, f"{error}" or type(error).__name__)
        raise


def _build(
    corpus: Corpus | JoinedCorpus, settings: PlanSettings, path: Path, documents: range
) -> None:
    _check_writable(path.parent)
    started = time.monotonic()
    try:
        index = build_pack_index(
            corpus, settings, path, documents=documents, progress=_log_progress(corpus)
        )
    except SettingError as error:
        raise InputError(error.naming(flag_of_setting)) from error
    except InputError:
        if not (path / MANIFEST).exists():  # otherwise another job has just made it
            raise
    else:
        seconds = time.monotonic() - started
        logger.info(
            f"packed {len(documents):,} documents of {corpus.prefix} into {len(index):,} rows, "
            f"lower bound {index.figures.lower_bound:,} "
            f"({index.figures.utilisation:.2%} used) in {seconds:.2f} s: {path}"
        )


def _check_writable(folder: Path) -> None:
    """Refuse a folder that is not writable before packing starts.

    Raises:
        InputError: The message names the flag that chooses another folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"pack indexes cannot be written to {folder} ({error.strerror or error}); use "
            f"--data-cache-path to name a writable folder that all nodes share"
        ) from error


def _wait_for(path: Path, command: str, config: PackedDatasetConfig) -> PackIndex:
    """Wait for the index that rank 0 makes, and open it."""

    def open_index() -> PackIndex:
        refuse_if_told(path.name)
        return PackIndex.open(path)

    try:
        return open_patiently(open_index, path.parent, 60 * config.packing_build_minutes)
    except UnreadableError as error:
        raise InputError(
            f"{path} does not exist after the {config.packing_build_minutes:g} minutes of "
            f"--packing-build-minutes. Either rank 0 needs longer to pack (then make the index "
            f"beforehand with: {command}, and name it with --packing-indexes), "
            f"or {socket.gethostname()} does not share the --data-cache-path of rank 0"
        ) from error


def _log_progress(corpus: Corpus | JoinedCorpus) -> Callable[[float], None]:
    """Return a function that logs progress every few seconds."""
    last = time.monotonic()

    def log(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_SECONDS:
            last = time.monotonic()
            logger.info(f"packing {corpus.prefix}: {share:.0%}")

    return log


def _find_given(
    corpus: Corpus | JoinedCorpus,
    documents: range,
    split: Split,
    config: PackedDatasetConfig,
    quietly: bool,
) -> PackIndex:
    """Choose the one index of this corpus whose documents all belong to this split."""
    found = []
    for place in config.packing_indexes:
        path = local_index(place, config.object_storage_cache_path)
        index = open_on_every_rank(partial(PackIndex.open, path), path)
        first = index.corpus.first_document
        inside = documents.start <= first and (first + index.corpus.num_documents <= documents.stop)
        if inside and index.corpus.fingerprint == corpus.fingerprint:
            found.append(index)
    given = ", ".join(config.packing_indexes)
    wanted = f"the documents {documents.start} to {documents.stop - 1} of {corpus.prefix}"
    if not found:
        settings = config.plan_settings(training=split is Split.train)
        raise InputError(
            f"none of the pack indexes {given} holds {wanted}, which this split needs; "
            f"make one with: {settings.command(str(corpus.prefix), documents)}"
        )
    if len(found) > 1:
        raise InputError(f"more than one of the pack indexes {given} holds {wanted}; give one")
    count = found[0].corpus.num_documents
    if count < len(documents) and not quietly:
        logger.warning(f"{found[0].path} holds {count:,} of the {len(documents):,} in {wanted}")
    if _is_builder() and not quietly:
        plan = found[0].plan
        logger.info(
            f"{wanted} are in {len(found[0]):,} rows of {found[0].path}; its own plan applies: "
            f"{plan.strategy}, overlong {plan.overlong}, alignment {plan.alignment}"
        )
    return _check(found[0], corpus, config)


def _check(
    index: PackIndex, corpus: Corpus | JoinedCorpus, config: PackedDatasetConfig
) -> PackIndex:
    check_source(index, corpus)
    first = index.corpus.first_document
    documents = range(first, first + index.corpus.num_documents)
    if index.plan.sequence_length != config.sequence_length:
        plan = replace(index.plan, sequence_length=config.sequence_length)
        command = plan.command(str(corpus.prefix), documents)
        raise InputError(
            f"the pack index {index.path} has rows of {index.plan.sequence_length} positions, but "
            f"--seq-length is {config.sequence_length}; give --seq-length "
            f"{index.plan.sequence_length}, or make an index with: {command}"
        )
    if index.plan.alignment % config.smallest_alignment:
        aligned = replace(index.plan, alignment=config.smallest_alignment)
        command = aligned.command(str(corpus.prefix), documents)
        raise InputError(
            f"the pack index {index.path} has segments aligned to {index.plan.alignment}, but "
            f"--context-parallel-size {config.context_parallel_size} cuts them into "
            f"{config.smallest_alignment} equal chunks; make one with: {command}"
        )
    return index


def _is_builder() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
