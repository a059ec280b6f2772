"""Files that every rank opens, which another machine may just have written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from megatron_packing.files import open_patiently

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
    initialised = torch.distributed.is_initialized()
    has_others = initialised and torch.distributed.get_world_size() > 1
    return open_patiently(
        opener,
        path.parent,
        STALE_SECONDS if has_others else 0,
        lambda message: logger.warning(f"waiting up to {STALE_SECONDS} s: {message}"),
    )
