# SPDX-License-Identifier: Apache-2.0
"""Reads a file of document lengths, from which packs can be planned without a corpus."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.counted import counted
from megatron_packing.errors import InputError

_MAGIC = b"\x93NUMPY"
_TOO_LONG = 2**63 - 1  # the number of its tokens does not fit in 64 bits
_ADVICE = "write a one-dimensional array of integers, tokens minus one, with numpy.save"


def read_lengths(path: Path) -> NDArray[np.integer]:
    """Open a file of lengths, memory-mapped.

    Args:
        path: Written by ``numpy.save``.

    Returns:
        The positions of each document, which are its tokens minus one, shape ``(num_documents,)``
        and any integer dtype. A document of one token has 0.

    Raises:
        InputError: The file does not exist, is not a ``.npy`` file, is truncated, or does not hold
            a non-empty, one-dimensional array of integers from 0 to 2**63 - 2.
    """
    if not path.is_file():
        raise InputError(
            f"{path} {'is not a file' if path.exists() else 'does not exist'}; {_ADVICE}"
        )
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise InputError(
                f"{path} cannot be read as a .npy file: it does not start with {_MAGIC!r}; "
                f"{_ADVICE}"
            )
        file.seek(0)
        dtype, shape = _read_header(path, file)
        size = path.stat().st_size - file.tell()
    if dtype.hasobject:
        raise InputError(f"{path} holds pickled Python objects, which are not loaded; {_ADVICE}")
    if dtype.kind not in "iu":
        raise InputError(f"{path} has dtype {dtype}; lengths must be integers: {_ADVICE}")
    if len(shape) != 1:
        raise InputError(f"{path} has shape {shape}; lengths must have one dimension: {_ADVICE}")
    if shape[0] < 1:
        raise InputError(f"{path} is empty; there is nothing to pack")
    if size < shape[0] * dtype.itemsize:
        raise InputError(
            f"{path} has {size} bytes of data, but {counted(shape[0], 'length')} of {dtype} need "
            f"{shape[0] * dtype.itemsize}; the file is truncated: write it again"
        )
    lengths: NDArray[np.integer] = np.load(path, mmap_mode="r", allow_pickle=False)
    for document in (int(lengths.argmin()), int(lengths.argmax())):
        if not 0 <= int(lengths[document]) < _TOO_LONG:
            raise InputError(
                f"{path} has length {int(lengths[document])} at document {document}; "
                f"lengths must be 0 or more and below 2**63 - 1: {_ADVICE}"
            )
    return lengths


def _read_header(path: Path, file: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the dtype and shape, and leave the file at the data."""
    try:
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)  # type: ignore[no-untyped-call]
    except Exception as error:  # NumPy's parser also raises SyntaxError, TokenError and TypeError
        raise InputError(
            f"{path} has a damaged .npy header ({error}); write it again with numpy.save"
        ) from error
    return dtype, shape


class LengthsFile:
    """A file of lengths in place of a corpus."""

    def __init__(self, path: str | Path) -> None:
        """Open the file.

        Raises:
            InputError: The file does not hold lengths.
        """
        self.prefix = Path(path)
        self.lengths = read_lengths(self.prefix)

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> NDArray[np.int64]:
        """Tokens of each document, shape ``(len(self),)``: its positions plus one."""
        return self.lengths.astype(np.int64) + 1

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the lengths, which differs from that of every corpus."""
        lengths = np.ascontiguousarray(self.lengths, np.int64)
        return f"lengths-sha256:{hashlib.sha256(lengths).hexdigest()}"
