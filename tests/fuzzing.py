# SPDX-License-Identifier: Apache-2.0
"""Damaged files, and what may come of reading one: its content or one sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from megatron_packing.errors import InputError

Content = TypeVar("Content")


def damage(original: bytes, chance: random.Random, stop: int | None = None) -> bytes:
    """Bytes, or those before ``stop``, replaced, removed or doubled."""
    content = bytearray(original)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        end = len(content) if stop is None else min(stop, len(content))
        kind, at = chance.randrange(4), chance.randrange(end)
        if kind < 2:
            content[at] = chance.randrange(256)
        elif kind == 2:
            del content[at : at + chance.choice([1, 2, 50])]
        else:
            content[at:at] = content[max(at - 20, 0) : at]
        content = content or bytearray(b"x")
    return bytes(content)


def read_unless_refused(read: Callable[[Path], Content], file: Path) -> Content | None:
    """What a file holds; None for one sentence that names the file."""
    try:
        return read(file)
    except InputError as error:
        refusal = str(error)
    assert str(file) in refusal
    assert "\n" not in refusal
    return None
