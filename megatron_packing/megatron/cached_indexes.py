# SPDX-License-Identifier: Apache-2.0
"""The pack indexes in ``--data-cache-path``; those that are missing are made."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from megatron.core.datasets.utils import Split

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus
from megatron_packing.errors import InputError, SettingError
from megatron_packing.files.at_once import try_at_once
from megatron_packing.first_rank import say
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.manifest import MANIFEST
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.megatron.config import PackedDatasetConfig
from megatron_packing.megatron.flags import flag_of_setting
from megatron_packing.megatron.object_storage import MegatronStorage
from megatron_packing.planning.settings import PlanSettings

logger = logging.getLogger(__name__)

_CACHE_FOLDER = "pack_indexes"
_PROGRESS_SECONDS = 10

Part = tuple[Corpus | JoinedCorpus, range, Split]
"""A corpus, and its documents that belong to a split."""


def cache_folder(config: PackedDatasetConfig, corpus: Corpus | JoinedCorpus) -> Path:
    """Return the folder for what a run computes from a corpus and keeps."""
    return Path(config.path_to_cache or corpus.folder / "cache")


class CachedIndexes:
    """Finds the index of a split by what it is made of, or makes it."""

    def __init__(
        self, config: PackedDatasetConfig, storage: MegatronStorage, parts: Sequence[Part]
    ) -> None:
        """Open at once the indexes that are there.

        Args:
            config: The dataset config.
            storage: Where corpora are.
            parts: What will be asked for.
        """
        self._config = config
        self._storage = storage
        paths = dict.fromkeys(self._path(*part) for part in parts)
        found = try_at_once(partial(PackIndex.open, path, trust="manifest") for path in paths)
        self._opened = dict(zip(paths, found, strict=True))

    def find(self, corpus: Corpus | JoinedCorpus, documents: range, split: Split) -> PackIndex:
        """Return the index of the documents of a split.

        Raises:
            InputError: It is damaged or cannot be made.
        """
        settings, path = self._settings(split), self._path(corpus, documents, split)
        index = self._opened.get(path)
        if index is None:
            if not (path / MANIFEST).exists():
                _build(corpus, settings, path, documents, self._storage)
            index = PackIndex.open(path, trust="manifest")
        if index.plan != settings:
            raise InputError(
                f"the pack index {path} has a different plan than its name says; remove the folder"
            )
        return index

    def _settings(self, split: Split) -> PlanSettings:
        return self._config.plan_settings(training=split is Split.train)

    def _path(self, corpus: Corpus | JoinedCorpus, documents: range, split: Split) -> Path:
        folder = cache_folder(self._config, corpus) / _CACHE_FOLDER
        settings = asdict(self._settings(split))
        identity = [corpus.fingerprint, documents.start, documents.stop, settings]
        return folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _build(
    corpus: Corpus | JoinedCorpus,
    settings: PlanSettings,
    path: Path,
    documents: range,
    storage: MegatronStorage,
) -> None:
    _check_writable(path.parent)
    started = time.monotonic()
    say(f"reading {corpus.prefix}")
    checked = open_corpus(corpus.prefix, storage)  # its documents are read in any case
    try:
        index = build_pack_index(
            checked,
            settings,
            path,
            documents=documents,
            progress=_log_progress(f"packing {corpus.prefix}"),
            reading=_log_progress(f"reading {corpus.prefix}"),
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


def _log_progress(what: str) -> Callable[[float], None]:
    """Return a function that tells the other ranks of progress, and logs it every few seconds."""
    last = time.monotonic()

    def log(share: float) -> None:
        nonlocal last
        say(f"{what}: {share:.0%}")
        if time.monotonic() - last >= _PROGRESS_SECONDS:
            last = time.monotonic()
            logger.info(f"{what}: {share:.0%}")

    return log
