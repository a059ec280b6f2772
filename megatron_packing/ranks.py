# SPDX-License-Identifier: Apache-2.0
"""Files that every rank opens, which another machine may just have written."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import megatron_packing.needs.torch  # noqa: F401

import torch

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus
from megatron_packing.corpus.storage import FILES, Storage
from megatron_packing.errors import InputError
from megatron_packing.files.whole import open_patiently
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source

logger = logging.getLogger(__name__)

STALE_SECONDS = 60
"""NFS clients forget after 30 seconds that a name was missing (acdirmax is 60)."""

_FAILED = "megatron_packing/failed/"
_DONE = "megatron_packing/done/"
_POLL_SECONDS = 0.2

Opened = TypeVar("Opened")


def open_on_every_rank(opener: Callable[[], Opened], path: Path) -> Opened:
    """Open files that were made beforehand; among several ranks, wait for a stale view to end.

    No collective operation is waited in, so no time limit of NCCL counts.

    Args:
        opener: Raises UnreadableError while something is missing.
        path: One of the files, in the folder where the others are.

    Raises:
        UnreadableError: Something was missing for ``STALE_SECONDS``.
    """
    return open_patiently(
        opener,
        path.parent,
        STALE_SECONDS if _num_ranks() > 1 else 0,
        lambda message: logger.warning(f"waiting up to {STALE_SECONDS} s: {message}"),
    )


def _num_ranks() -> int:
    """Of the run; before torch.distributed is there, by what launchers say."""
    if torch.distributed.is_initialized():
        return int(torch.distributed.get_world_size())
    return int(os.environ.get("WORLD_SIZE", "1"))


def open_corpus_on_every_rank(prefixes: str, storage: Storage = FILES) -> Corpus | JoinedCorpus:
    """Open a corpus, or several as one, as ``open_corpus`` does; see ``open_on_every_rank``."""
    return open_on_every_rank(lambda: open_corpus(prefixes, storage), _first(prefixes))


def _first(prefixes: str) -> Path:
    """The first corpus, whose folder is looked into."""
    return Path(prefixes.split(",")[0])


def open_index_and_corpus(
    path: str | Path, corpus: str | Path | None = None
) -> tuple[PackIndex, Corpus | JoinedCorpus]:
    """Open a pack index and the corpus it was made from, on any of many ranks.

    Args:
        path: The pack index.
        corpus: Where its corpus is; see ``index.source.open_source``.

    Raises:
        UnreadableError: One of them was missing for ``STALE_SECONDS``.
        InputError: They do not belong together.
    """
    index = open_on_every_rank(lambda: PackIndex.open(path), Path(path))
    where = _first(str(corpus or index.corpus.prefix))
    return index, open_on_every_rank(lambda: open_source(index, corpus), where)


def on_first_rank(name: str, work: Callable[[], str | None], what: str) -> str:
    """Do ``work`` on rank 0 while the others wait for it, in no collective operation.

    Every rank gets the text that it returns.

    Args:
        name: Of this work, once in a run.
        work: What rank 0 does.
        what: The same in words, after "rank 0 could not".

    Raises:
        InputError: Rank 0 raised it, with its message on every rank.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return work() or ""
    if torch.distributed.get_rank() == 0:
        try:
            result = work() or ""
        except BaseException as error:
            tell_waiting_ranks(name, f"{error}" or type(error).__name__)
            time.sleep(5 * _POLL_SECONDS)  # the store may end with this rank: let others read it
            raise
        _store().set(_DONE + name, result)
        return result
    while not _is_set(_DONE + name, what):
        refuse_if_told(name, what)
        time.sleep(_POLL_SECONDS)
    return str(_store().get(_DONE + name).decode())


def tell_waiting_ranks(name: str, message: str) -> None:
    """Let the ranks that wait for ``name`` know that it will not come.

    By the key-value store through which the run's ranks found each other, which takes no
    collective operation.
    """
    if torch.distributed.is_initialized():
        with suppress(RuntimeError):  # the store may be gone already
            _store().set(_FAILED + name, message)


def refuse_if_told(name: str, what: str = "pack") -> None:
    """Stop waiting for what rank 0 could not make.

    Raises:
        InputError: With rank 0's message, or that rank 0 is gone.
    """
    if torch.distributed.is_initialized() and _is_set(_FAILED + name, what):
        message = _store().get(_FAILED + name).decode()
        raise InputError(f"rank 0 could not {what}: {message}")


def _is_set(key: str, what: str) -> bool:
    try:
        return bool(_store().check([key]))
    except RuntimeError as error:
        raise InputError(
            f"rank 0 ended while others waited for it to {what} ({error}); its own log says why"
        ) from error


def _store() -> torch.distributed.Store:
    return torch.distributed.distributed_c10d._get_default_store()
