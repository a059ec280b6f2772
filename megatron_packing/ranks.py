# SPDX-License-Identifier: Apache-2.0
"""Files that every rank opens, which another machine may just have written."""

from __future__ import annotations

import base64
import json
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import megatron_packing.needs.torch  # noqa: F401

import torch

from megatron_packing.corpus.corpus import Corpus, KnownCorpus, Trust
from megatron_packing.corpus.joined import JoinedCorpus, open_corpus
from megatron_packing.corpus.storage import Storage
from megatron_packing.errors import InputError
from megatron_packing.files.whole import open_patiently
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source

logger = logging.getLogger(__name__)

STALE_SECONDS = 60
"""NFS clients forget after 30 seconds that a name was missing (acdirmax is 60)."""

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


def open_corpus_on_every_rank(
    prefixes: str, storage: Storage, trust: Callable[[str], Trust]
) -> Corpus | JoinedCorpus:
    """Open a corpus, or several as one, as ``open_corpus`` does; see ``open_on_every_rank``."""
    return open_on_every_rank(lambda: open_corpus(prefixes, storage, trust), _first(prefixes))


def _first(prefixes: str) -> Path:
    """The first corpus, whose folder is looked into."""
    return Path(prefixes.split(",")[0])


def packed(values: Any) -> str:
    """Return JSON values as a short text, for the store of a run."""
    return base64.b64encode(zlib.compress(json.dumps(values).encode())).decode()


def unpacked(text: str) -> Any:
    """Return what was ``packed``."""
    return json.loads(zlib.decompress(base64.b64decode(text)))


def refuse_other_release(name: str, value: object) -> InputError:
    """Return the error for a value that rank 0 cannot have handed on."""
    return InputError(f"rank 0 said {value!r:.80} for {name}: it runs another release")


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
    index = open_index_on_every_rank(path)
    return index, open_source_on_every_rank(index, corpus)


def open_index_on_every_rank(path: str | Path) -> PackIndex:
    """Open a pack index; see ``open_on_every_rank``."""
    return open_on_every_rank(lambda: PackIndex.open(path, trust="manifest"), Path(path))


def open_source_on_every_rank(
    index: PackIndex,
    corpus: str | Path | None = None,
    trust: Trust | Sequence[KnownCorpus] = "record",
) -> Corpus | JoinedCorpus:
    """Open the corpus of an index as ``open_source`` does; see ``open_on_every_rank``."""
    where = _first(str(corpus or index.corpus.prefix))
    return open_on_every_rank(lambda: open_source(index, corpus, trust), where)
