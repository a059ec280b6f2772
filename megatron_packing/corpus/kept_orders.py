# SPDX-License-Identifier: Apache-2.0
"""Keeps the orders of a part of a corpus in a file, which all processes of a machine share.

Without it each process sorts all documents and holds 4 bytes for each. The file has two arrays of
int32, or of int64 for more than 2**31 - 1 documents, and then the SHA-256 of both. It exists whole
or not at all, and may be removed: it is made again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import map_array, open_regular
from megatron_packing.files.whole import sync, temporary_sibling, writing

Orders = tuple[NDArray[np.integer], NDArray[np.integer]]
"""All documents by length, and the rank by length of each slot; see ``ChangingPart``."""

_DIGEST_BYTES = 32


def dtype_of_orders(size: int) -> np.dtype[Any]:
    """Return the dtype of the orders of a corpus of so many documents."""
    return np.dtype("<i4") if size <= np.iinfo(np.int32).max else np.dtype("<i8")


def read_orders(path: Path, size: int, count: int, *, checks: bool = False) -> Orders | None:
    """Map the orders in a file.

    Args:
        path: The file.
        size: Documents of the corpus.
        count: Documents of the part.
        checks: Compare the arrays with their hash, which reads them.

    Returns:
        Arrays of shape ``(size,)`` and ``(count,)``; None if there is no file.

    Raises:
        InputError: It is another file, or damaged.
    """
    dtype = dtype_of_orders(size)
    length = (size + count) * dtype.itemsize
    try:
        file = open_regular(path, looks_first=False)
    except UnreadableError:
        return None
    with file:
        found = os.fstat(file.fileno()).st_size
        if found != length + _DIGEST_BYTES:
            raise InputError(
                f"{path} has {found} bytes where {length + _DIGEST_BYTES} belong; remove it, and "
                f"start again"
            )
        data = map_array(path, file, "|u1", 0, found)
    values, digest = data[:length], data[length:]
    if checks and hashlib.sha256(values).digest() != digest.tobytes():
        raise InputError(f"{path} is damaged (its hash differs); remove it, and start again")
    orders = values.view(dtype)
    return orders[:size], orders[size:]


def write_orders(path: Path, orders: Orders) -> None:
    """Write the orders to a file.

    Raises:
        InputError: The folder cannot be written, or the disk is full.
    """
    dtype = dtype_of_orders(len(orders[0]))
    arrays = [np.ascontiguousarray(order, dtype) for order in orders]
    digest = hashlib.sha256()
    with writing(path), temporary_sibling(path) as folder:
        unfinished = folder / path.name
        with unfinished.open("wb") as file:
            for array in arrays:
                digest.update(array)
                file.write(array)
            file.write(digest.digest())
        sync(unfinished)
        unfinished.replace(path)
