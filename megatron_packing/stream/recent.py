# SPDX-License-Identifier: Apache-2.0
"""Keeps what was computed last.

functools.lru_cache cannot be used: datasets are pickled for dataloader workers.
"""

from __future__ import annotations

from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def keep_recent(cache: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Add an entry, and forget the oldest one if there are ``most`` already."""
    if len(cache) == most:
        del cache[next(iter(cache))]
    cache[key] = value
