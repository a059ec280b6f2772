r"""Megatron's IndexedDataset files, read and written with numpy alone.

The format is that of ``megatron/core/datasets/indexed_dataset.py``: ``PREFIX.bin`` holds the values
of all documents one after another; ``PREFIX.idx`` holds, little-endian,

    bytes 0-8    the magic ``MMIDIDX\0\0``
    8-16         version 1 (uint64)
    16           dtype code (uint8)
    17-25        number of sequences (uint64)
    25-33        number of document boundaries (uint64)
    then         sequence lengths (int32), their byte offsets in the ``.bin`` (int64), and the
                 document boundaries in sequences (int64)

As in Megatron's GPTDataset, each sequence is one document.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files import sync

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")

DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.int8),
    3: np.dtype(np.int16),
    4: np.dtype(np.int32),
    5: np.dtype(np.int64),
    6: np.dtype(np.float64),
    7: np.dtype(np.float32),
    8: np.dtype(np.uint16),
}
_BLOCK = 1 << 20
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}


def index_path(prefix: Path) -> Path:
    """``PREFIX.idx``."""
    return prefix.with_name(prefix.name + ".idx")


def data_path(prefix: Path) -> Path:
    """``PREFIX.bin``."""
    return prefix.with_name(prefix.name + ".bin")


@dataclass(frozen=True, slots=True)
class SequenceIndex:
    """The content of a ``.idx`` file, memory-mapped."""

    dtype: np.dtype[Any]
    lengths: NDArray[np.int32]
    """Shape ``(num_documents,)``: values of each document."""
    offsets: NDArray[np.int64]
    """Shape ``(num_documents,)``: where each document starts in the ``.bin``, in bytes."""


def read_index(prefix: Path) -> SequenceIndex:
    """Read ``PREFIX.idx`` and check it against the size of ``PREFIX.bin``.

    Raises:
        UnreadableError: A file is missing, or shorter or longer than it says.
        InputError: It is not of this format.
    """
    path, data = index_path(prefix), data_path(prefix)
    for needed in (path, data):
        if not needed.is_file():
            raise UnreadableError(
                f"{needed} does not exist; give the prefix of a Megatron corpus, "
                f"that is the path of its .bin and .idx files without the ending"
            )
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise UnreadableError(
            f"{path} has {len(header)} bytes, less than a Megatron index begins with; the file is "
            f"truncated: write or copy the corpus again"
        )
    if not header.startswith(MAGIC):
        raise InputError(f"{path} is not a Megatron index: it does not start with {MAGIC!r}")
    _, version, code, num_documents, num_boundaries = HEADER.unpack(header)
    if version != VERSION:
        raise InputError(f"{path} has version {version}; only version {VERSION} can be read")
    if code not in DTYPES:
        raise InputError(f"{path} has dtype code {code}; expected one of {sorted(DTYPES)}")
    # A multimodal corpus has one more byte for each sequence.
    expected = HEADER.size + 12 * num_documents + 8 * num_boundaries
    if size not in (expected, expected + num_documents):
        raise UnreadableError(
            f"{path} has {size} bytes where {num_documents} documents need {expected}; "
            f"the file is truncated or damaged: write the corpus again"
        )
    if num_documents == 0:
        raise InputError(f"{path} holds no documents")
    lengths = np.memmap(path, np.dtype("<i4"), "r", HEADER.size, (num_documents,))
    offsets = np.memmap(
        path, np.dtype("<i8"), "r", HEADER.size + 4 * num_documents, (num_documents,)
    )
    dtype = DTYPES[code]
    end = int(offsets[-1]) + int(lengths[-1]) * dtype.itemsize
    if data.stat().st_size != end:
        raise UnreadableError(
            f"{data} has {data.stat().st_size} bytes where {path.name} expects {end}; "
            f"the file is truncated or of another corpus: write or copy it again"
        )
    return SequenceIndex(dtype=dtype, lengths=lengths, offsets=offsets)


class IndexedDatasetWriter:
    """Writes ``PREFIX.bin`` as documents come and ``PREFIX.idx`` when it is closed.

    Used as a context manager. The files are not complete before its end; write them to a temporary
    prefix and rename them.
    """

    def __init__(self, prefix: Path, dtype: np.dtype[Any]) -> None:
        self.prefix = prefix
        self.dtype = np.dtype(dtype)
        self._lengths = array("i")
        self._data = data_path(prefix).open("wb")

    def __enter__(self) -> IndexedDatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.close()
        if error is None:
            sync(data_path(self.prefix))
            write_index(index_path(self.prefix), self.dtype, np.frombuffer(self._lengths, np.int32))

    def add(self, values: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        """Append documents: their values one after another, and how many each has."""
        self._data.write(np.ascontiguousarray(values, self.dtype).tobytes())
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())


def write_index(path: Path, dtype: np.dtype[Any], lengths: NDArray[np.int32]) -> None:
    """Write a ``.idx`` of documents that lie one after another, a block at a time.

    Args:
        path: The file.
        dtype: Of the values in the ``.bin``.
        lengths: Shape ``(num_documents,)``: values of each document.
    """
    count = len(lengths)
    with path.open("wb") as file:
        file.write(HEADER.pack(MAGIC, VERSION, DTYPE_CODES[np.dtype(dtype)], count, count + 1))
        for start in range(0, count, _BLOCK):
            file.write(lengths[start : start + _BLOCK].astype("<i4").tobytes())
        offset = 0
        for start in range(0, count, _BLOCK):
            ends = offset + np.cumsum(lengths[start : start + _BLOCK], dtype=np.int64)
            starts = np.concatenate([[offset], ends[:-1]]) * dtype.itemsize
            file.write(starts.astype("<i8").tobytes())
            offset = int(ends[-1])
        for start in range(0, count + 1, _BLOCK):
            stop = min(start + _BLOCK, count + 1)
            file.write(np.arange(start, stop, dtype=np.dtype("<i8")).tobytes())
    sync(path)
