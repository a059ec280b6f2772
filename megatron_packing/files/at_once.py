# SPDX-License-Identifier: Apache-2.0
"""Opens many files at once, because most of the time is spent waiting for a file server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from megatron_packing.errors import InputError

Opened = TypeVar("Opened")

_THREADS = 16


def try_at_once(openers: Iterable[Callable[[], Opened]]) -> list[Opened | None]:
    """Call openers in several threads.

    Returns:
        What each returned, in order; None if it raised an InputError or an OSError. Call it once
        more for its sentence: then the first one that fails is named, and waited for if need be.
    """

    def attempt(opener: Callable[[], Opened]) -> Opened | None:
        try:
            return opener()
        except (InputError, OSError):
            return None

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="opening") as pool:
        return list(pool.map(attempt, openers))
