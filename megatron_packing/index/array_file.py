# SPDX-License-Identifier: Apache-2.0
"""Opens the ``.npy`` arrays of a pack index: only such as ``numpy.save`` writes for it."""

from __future__ import annotations

import hashlib
import io
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import map_array, open_regular

_PREFIX = b"\x93NUMPY\x01\x00"  # the magic and version 1.0
_HEADER = re.compile(
    rb"\{'descr': '([^']{1,20})', 'fortran_order': (?:False|True), 'shape': \((\d{1,19}),\), \}\s*"
)
_LONGEST_HEADER = 4096


def open_array(
    path: Path, dtype: str, length: int, advice: str
) -> tuple[NDArray[Any], os.stat_result]:
    """Map a one-dimensional array.

    Nothing is unpickled or evaluated, and nothing is allocated for what a header claims.

    Args:
        path: A file in version 1.0 of numpy's format, as ``numpy.save`` writes it.
        dtype: As numpy writes it, such as ``<i8``.
        length: How many values it must hold.
        advice: What to do where it is another file.

    Returns:
        The array, and what its file looked like when it was mapped.

    Raises:
        UnreadableError: It is missing, or shorter than it says.
        InputError: It is another file, or holds something else.
    """
    try:
        file = open_regular(path, looks_first=False)
    except UnreadableError as error:
        raise UnreadableError(f"{path} cannot be opened ({error}); {advice}") from error
    with file:
        status = os.fstat(file.fileno())
        size = status.st_size
        prefix = file.read(len(_PREFIX) + 2)
        if len(prefix) < len(_PREFIX) + 2:
            raise UnreadableError(f"{path} cannot be opened (it has {size} bytes); {advice}")
        if not prefix.startswith(_PREFIX):
            raise InputError(f"{path} cannot be opened (it is not a .npy file); {advice}")
        header_length = int.from_bytes(prefix[len(_PREFIX) :], "little")
        start = len(prefix) + header_length
        header = file.read(min(header_length, _LONGEST_HEADER))
        found = _HEADER.fullmatch(header)
        if found is None:
            raise InputError(f"{path} cannot be opened (its header is damaged); {advice}")
        if found[1] != dtype.encode() or int(found[2]) != length:
            raise InputError(
                f"{path} holds {found[1].decode('ascii', 'replace')} [{int(found[2])}] where the "
                f"manifest says {dtype} [{length}]; {advice}"
            )
        expected = start + length * np.dtype(dtype).itemsize
        if size < expected:
            raise UnreadableError(
                f"{path} cannot be opened (it has {size} of {expected} bytes); {advice}"
            )
        if size > expected:
            raise InputError(f"{path} has {size} bytes where {expected} belong; {advice}")
        return map_array(path, file, dtype, start, length), status


@lru_cache(maxsize=64)
def size_of_header(dtype: str, length: int) -> int:
    """Return the bytes before the values of an array, as ``numpy.save`` writes them."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
        header, {"descr": dtype, "fortran_order": False, "shape": (length,)}
    )
    return len(header.getvalue())


def array_path(path: Path, name: str) -> Path:
    """The file of an array of the pack index in the folder ``path``."""
    return path / f"{name}.npy"


def hash_of(array: NDArray[Any]) -> str:
    """SHA-256, in hex, of the values of an array."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
