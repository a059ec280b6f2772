# SPDX-License-Identifier: Apache-2.0
"""Finds the pack index of each split, or has it made.

Rank 0 does so while the other ranks wait for what it finds. No rank waits in a collective
operation, which NCCL would abort after some minutes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from megatron.core.datasets.utils import Split

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.first_rank import is_several, on_every_rank, on_first_rank, say
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import check_source
from megatron_packing.megatron.cached_indexes import CachedIndexes, cache_folder
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.given_indexes import GivenIndexes
from megatron_packing.megatron.object_storage import MegatronStorage
from megatron_packing.megatron.opened import OpenedData
from megatron_packing.stream.even_order import EvenSettings, keep_work
from megatron_packing.thd.row_shape import RowShape

_ORDERS_FOLDER = "orders"

logger = logging.getLogger(__name__)

_calls: Counter[str] = Counter()


def prepare_indexes(config: PackedDatasetConfig, *, reads: bool = True) -> None:
    """Find or make the index of every split of every corpus, for every rank.

    Rank 0 opens and checks everything, and makes indexes; the others compare sizes and digests.
    This returns when every rank has done so, so call it on every rank. Call it before Megatron's
    dataset builder, whose other ranks wait in a barrier while rank 0 builds
    (``BlendedMegatronDatasetBuilder.build_generic_dataset``).

    Args:
        config: The dataset config. ``packing_opened`` is set, and ``packing_shape`` if it is None.
        reads: False on a rank that reads no data. It opens no files.

    Raises:
        InputError: A corpus or an index does not fit this run, or a rank does not see one. Every
            rank gets the sentence.
    """
    on_every_rank(
        _numbered(f"see {_name_of(config)}"),
        lambda: open_indexes(config, reads=reads),
        "open the data",
        silence_seconds=60 * config.packing_build_minutes,
    )


def open_indexes(config: PackedDatasetConfig, *, reads: bool = True) -> None:
    """Do as ``prepare_indexes``, but do not wait until every rank has done so.

    A config whose ``packing_opened`` is that of an earlier one has nothing opened anew, unless this
    rank reads data now and did not before. Every rank must do alike.

    Raises:
        InputError: As ``prepare_indexes``.
    """
    opened = opened_data(config)

    def work() -> str:
        _open_or_make(config, opened)
        return opened.as_text() if is_several() else ""

    if opened.handed_on is None:
        opened.handed_on = on_first_rank(
            _numbered(f"pack {_name_of(config)}"),
            work,
            "pack the data",
            silence_seconds=60 * config.packing_build_minutes,
        )
    is_other = is_several() and torch.distributed.get_rank() != 0
    if reads and is_other and not opened.indexes:
        opened.adopt(opened.handed_on)
        _share_orders(config, opened, makes=False)
    if config.packing_shape is None:
        config.packing_shape = opened.shape


def opened_data(config: PackedDatasetConfig) -> OpenedData:
    """Return what this rank has opened for a config; nothing at first, or after a change of it."""
    name = _name_of(config)
    if config.packing_opened is None:
        config.packing_opened = OpenedData(storage_of(config), name)
    elif config.packing_opened.name != name:  # indexes of other settings
        corpora = config.packing_opened.corpora
        config.packing_opened = OpenedData(storage_of(config), name, corpora)
    return config.packing_opened


def _numbered(name: str) -> str:
    """Name a work anew at each call, of which all ranks make the same ones in the same order."""
    _calls[name] += 1
    return f"{name} {_calls[name]}"


def storage_of(config: PackedDatasetConfig) -> MegatronStorage:
    """Reader settings for the corpora of a run."""
    return MegatronStorage(config.mmap_bin_files, config.object_storage_cache_path)


def corpora_of(config: PackedDatasetConfig) -> list[Corpus]:
    """Distinct corpora of all splits.

    Raises:
        InputError: A corpus cannot be opened.
    """
    opened = opened_data(config)
    _open_ahead(config, opened)
    prefixes = dict.fromkeys(prefix for prefix, _, _ in _corpora_and_splits(config))
    found = [one for prefix in prefixes for one in opened.corpus(prefix).corpora]
    return list({one.prefix: one for one in found}.values())


def find_index(
    prefixes: str, documents: range, split: Split, config: PackedDatasetConfig
) -> PackIndex:
    """Return the pack index of a split; ``open_indexes`` has found or made it.

    Raises:
        InputError: It did not, because the split is not one of the config's.
    """
    index = opened_data(config).indexes.get(_key(prefixes, documents, split))
    if index is None:
        raise InputError(
            f"the documents {documents.start} to {documents.stop - 1} of {prefixes} are no "
            f"{split.name} split of this dataset's config: change its blend or split"
        )
    return index


def documents_of(num_documents: int, bounds: tuple[float, float]) -> range:
    """Return the documents of a split, as Megatron's builder cuts them.

    Args:
        num_documents: Of the corpus.
        bounds: Where the split begins and ends, as shares of the corpus.
    """
    begin, end = (round(bound * float(num_documents)) for bound in bounds)
    return range(begin, end)


def _key(prefixes: str, documents: range, split: Split) -> tuple[str, int, int, bool]:
    return str(prefixes), documents.start, documents.stop, split is Split.train


def _name_of(config: PackedDatasetConfig) -> str:
    """Name the data of a config, which all ranks do alike."""
    fields = [
        config.blend,
        config.blend_per_split,
        config.split,
        config.packing_indexes,
        asdict(config.plan_settings(training=True)),
        config.packing_eval_packs_multiple_of,
        config.packing_attention,
    ]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


def _open_or_make(config: PackedDatasetConfig, opened: OpenedData) -> None:
    _open_ahead(config, opened)
    splits = []
    for prefixes, split, bounds in _corpora_and_splits(config):
        corpus = opened.corpus(prefixes)
        documents = documents_of(len(corpus), bounds)
        key = _key(prefixes, documents, split)
        if documents and key not in opened.indexes:
            splits.append((key, corpus, documents, split))
    _share_orders(config, opened, makes=True)
    found = (
        GivenIndexes(config)
        if config.packing_indexes
        else CachedIndexes(config, opened.storage, [one[1:] for one in splits])
    )
    for key, corpus, documents, split in splits:
        opened.indexes[key] = _check(found.find(corpus, documents, split), corpus, config)
    PackIndex.check_few(opened.indexes.values())  # before anything is computed from their arrays
    for key, corpus, _, split in splits:
        if config.packing_even_order and split is Split.train:
            _keep_work(config, opened.indexes[key], corpus, config.packing_even_order)
    if opened.indexes and opened.shape is None:
        opened.shape = RowShape.of(opened.indexes.values(), config.packing_attention)


def _share_orders(config: PackedDatasetConfig, opened: OpenedData, *, makes: bool) -> None:
    """Let all ranks read how fractions of corpora (``A:0.5``) change, which one of them computes.

    Args:
        config: The dataset config.
        opened: What this rank has opened.
        makes: Whether this rank makes the files.
    """
    for corpus in opened.corpora.values():
        if not isinstance(corpus, JoinedCorpus) or not corpus.changes_each_epoch:
            continue
        corpus.share_orders(_orders_folder(config, corpus))
        if not makes:
            continue
        say(f"sorting the documents of {corpus.prefix}")
        if problem := corpus.keep_orders():
            logger.warning(f"each process sorts the documents of {corpus.prefix} itself: {problem}")


def _orders_folder(config: PackedDatasetConfig, corpus: Corpus | JoinedCorpus) -> Path:
    return cache_folder(config, corpus) / _ORDERS_FOLDER


def work_path(
    config: PackedDatasetConfig,
    index: PackIndex,
    corpus: Corpus | JoinedCorpus,
    settings: EvenSettings,
) -> Path:
    """Return the file with the work of each pack of an index, which rank 0 makes."""
    of = [index.digest, index.corpus.fingerprint, settings.per_token, settings.per_squared_length]
    name = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:32]
    return _orders_folder(config, corpus) / name


def _keep_work(
    config: PackedDatasetConfig,
    index: PackIndex,
    corpus: Corpus | JoinedCorpus,
    settings: EvenSettings,
) -> None:
    """Let all ranks read the work of packs, which this one computes."""
    say(f"computing the work of the packs of {index.path}")
    path = work_path(config, index, corpus, settings)
    if problem := keep_work(path, index, corpus.num_tokens, settings.work_model):
        logger.warning(f"each rank computes the work of the packs of {index.path}: {problem}")


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


def _open_ahead(config: PackedDatasetConfig, opened: OpenedData) -> None:
    """Open the corpora of all splits at once."""
    names = dict.fromkeys(prefixes for prefixes, _, _ in _corpora_and_splits(config))
    say(f"opening {counted(len(names), 'corpus', 'corpora')}")
    opened.open_ahead(names)


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
