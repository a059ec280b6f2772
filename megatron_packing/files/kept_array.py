# SPDX-License-Identifier: Apache-2.0
"""Keeps an array that was computed in a file, which all processes of a machine share in memory.

The file has the values and then their SHA-256. It exists whole or not at all, and may be removed:
it is made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import map_array, open_regular
from megatron_packing.files.whole import sync, temporary_sibling, writing

_DIGEST_BYTES = 32


def read_kept(
    path: Path, dtype: np.dtype[Any], length: int, *, checks: bool = False
) -> NDArray[Any] | None:
    """Map the array in a file.

    Args:
        path: The file.
        dtype: Of the values.
        length: How many there are.
        checks: Compare the values with their hash, which reads them.

    Returns:
        Shape ``(length,)``; None if there is no file.

    Raises:
        InputError: It is another file, or damaged.
    """
    size = length * dtype.itemsize
    try:
        file = open_regular(path, looks_first=False)
    except UnreadableError:
        return None
    with file:
        found = os.fstat(file.fileno()).st_size
        if found != size + _DIGEST_BYTES:
            raise InputError(
                f"{path} has {found} bytes where {size + _DIGEST_BYTES} belong; remove it, and "
                f"start again"
            )
        data = map_array(path, file, "|u1", 0, found)
    values, digest = data[:size], data[size:]
    if checks and hashlib.sha256(values).digest() != digest.tobytes():
        raise InputError(f"{path} is damaged (its hash differs); remove it, and start again")
    return values.view(dtype)


def write_kept(path: Path, dtype: np.dtype[Any], parts: Sequence[NDArray[Any]]) -> None:
    """Write an array to a file, in parts that follow one another.

    Raises:
        InputError: The folder cannot be written, or the disk is full.
    """
    digest = hashlib.sha256()
    with writing(path), temporary_sibling(path) as folder:
        unfinished = folder / path.name
        with unfinished.open("wb") as file:
            for part in parts:
                values = np.ascontiguousarray(part, dtype)
                digest.update(values)
                file.write(values)
            file.write(digest.digest())
        sync(unfinished)
        unfinished.replace(path)
