# SPDX-License-Identifier: Apache-2.0
r"""Reads and writes Megatron's IndexedDataset files with NumPy alone.

The format is defined in ``megatron/core/datasets/indexed_dataset.py``. ``PREFIX.bin`` holds the
values of all documents in order; ``PREFIX.idx`` holds, in little-endian byte order,

    bytes 0-8    the magic ``MMIDIDX\0\0``
    8-16         version 1 (uint64)
    16           dtype code (uint8)
    17-25        number of sequences (uint64)
    25-33        number of document boundaries (uint64)
    then         sequence lengths (int32), their byte offsets in the ``.bin`` (int64), and the
                 document boundaries in sequences (int64)

A document consists of the sequences between two boundaries. Mostly that is one sequence;
``preprocess_data.py --split-sentences`` writes several. Megatron's GPTDataset ignores boundaries,
because it does not separate documents.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.document_index import DocumentIndex as DocumentIndex
from megatron_packing.counted import counted
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import map_array, open_regular, size_of
from megatron_packing.files.whole import sync

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
Found = TypeVar("Found")
_GIVE_PREFIX = (
    "give the prefix of a Megatron corpus, which is the path of its .bin and .idx files without "
    "the ending"
)
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}


def index_path(prefix: Path) -> Path:
    """Return ``PREFIX.idx``."""
    return prefix.with_name(prefix.name + ".idx")


def data_path(prefix: Path) -> Path:
    """Return ``PREFIX.bin``."""
    return prefix.with_name(prefix.name + ".bin")


def read_index(
    prefix: Path, missing: str = _GIVE_PREFIX, data_size: int | None = None
) -> DocumentIndex:
    """Read ``PREFIX.idx``, and check all of it and the size of ``PREFIX.bin``.

    Sequences must be contiguous in the ``.bin``, as Megatron writes them, and the boundaries must
    divide all of them into documents.

    Args:
        prefix: The path of the two files without the ending.
        missing: What to do if one of them does not exist, for the error.
        data_size: The size of a ``.bin`` that is stored elsewhere; None reads it from the file.

    Raises:
        UnreadableError: A file is missing or has the wrong size.
        InputError: The index has another format or contradicts itself.
    """
    path, data = index_path(prefix), data_path(prefix)
    header, lengths, offsets, boundaries = map_columns(path, missing)
    if data_size is None:
        data_size = _explained(lambda: size_of(data), missing)
    dtype, num_sequences = DTYPES[HEADER.unpack(header)[2]], len(lengths)
    end = _check_offsets(path, dtype, lengths, offsets)
    if data_size != end:
        raise UnreadableError(
            f"{data} has {data_size} bytes, but {path.name} expects {end}; "
            f"the file is truncated or belongs to another corpus: write or copy it again"
        )
    grouped = _groups_sequences(path, boundaries, num_sequences)
    if grouped:
        starts = np.full(len(boundaries), end, np.int64)
        inside = boundaries < num_sequences
        starts[inside] = offsets[boundaries[inside]]
        lengths, offsets = np.diff(starts) // dtype.itemsize, starts[:-1]
        if lengths.max() <= np.iinfo(np.int32).max:
            lengths = lengths.astype(np.int32)
    columns = lengths, offsets
    return DocumentIndex(
        dtype, len(lengths), end // dtype.itemsize, lambda: columns, groups_sequences=grouped
    )


def map_columns(
    path: Path, missing: str = _GIVE_PREFIX
) -> tuple[bytes, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Map a ``.idx`` file whose content is not checked, but for its header and its size.

    Returns:
        The header, and the lengths, offsets and document boundaries.

    Raises:
        UnreadableError: The file is missing or has the wrong size.
        InputError: It has another format.
    """
    with _open(path, missing) as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(HEADER.size)
        _, num_sequences, num_boundaries = decode_header(path, header, size)
        mapped = map_array(path, file, "|u1", 0, size)
    ends = HEADER.size + np.cumsum([0, 4 * num_sequences, 8 * num_sequences, 8 * num_boundaries])
    columns = [mapped[first:last] for first, last in pairwise(ends.tolist())]
    lengths, offsets, boundaries = (
        column.view(kind) for column, kind in zip(columns, ("<i4", "<i8", "<i8"), strict=True)
    )
    return header, lengths, offsets, boundaries


def open_index_file(path: Path) -> BinaryIO:
    """Open a ``.idx`` file; see ``open_regular``."""
    return _open(path, _GIVE_PREFIX)


def _open(path: Path, missing: str) -> BinaryIO:
    return _explained(lambda: open_regular(path, looks_first=False), missing)


def _explained(look: Callable[[], Found], missing: str) -> Found:
    """Look for a file; say what to do if it is missing."""
    try:
        return look()
    except UnreadableError as error:
        raise UnreadableError(f"{error}; {missing}") from error


def decode_header(path: Path, header: bytes, size: int) -> tuple[np.dtype[Any], int, int]:
    """Return the dtype of values, and the numbers of sequences and of boundaries.

    Args:
        path: The ``.idx`` file, for errors.
        header: Its first bytes.
        size: Its size in bytes.

    Raises:
        UnreadableError: The file has the wrong size.
        InputError: It has another format.
    """
    if len(header) < HEADER.size:
        raise UnreadableError(
            f"{path} has {len(header)} bytes, less than the header of a Megatron index; the file "
            f"is truncated: write or copy the corpus again"
        )
    if not header.startswith(MAGIC):
        raise InputError(f"{path} is not a Megatron index: it does not start with {MAGIC!r}")
    _, version, code, num_sequences, num_boundaries = HEADER.unpack(header)
    if version != VERSION:
        raise InputError(f"{path} has version {version}; only version {VERSION} can be read")
    if code not in DTYPES:
        raise InputError(f"{path} has dtype code {code}; expected one of {sorted(DTYPES)}")
    expected = HEADER.size + 12 * num_sequences + 8 * num_boundaries
    if num_sequences and size == expected + num_sequences:
        raise InputError(
            f"{path} belongs to a multimodal corpus (it has a mode for each sequence), whose "
            f"images would be read as text; give a corpus that has only text"
        )
    if size != expected:
        raise UnreadableError(
            f"{path} has {size} bytes, but {counted(num_sequences, 'sequence')} and "
            f"{counted(num_boundaries, 'document boundary', 'document boundaries')} need "
            f"{expected}; the file is truncated or damaged: write the corpus again"
        )
    if num_sequences == 0:
        raise InputError(f"{path} holds no documents")
    return DTYPES[code], num_sequences, num_boundaries


def _check_offsets(
    path: Path, dtype: np.dtype[Any], lengths: NDArray[np.int32], offsets: NDArray[np.int64]
) -> int:
    """Refuse sequences that are not contiguous; return the end of the last one, in bytes."""
    end = 0
    for block in _blocks(len(lengths)):
        sizes = lengths[block].astype(np.int64)
        if sizes.min() < 0:
            at = int(np.argmax(sizes < 0))
            raise InputError(
                f"{path} has length {int(sizes[at])} at sequence {block.start + at}; lengths "
                f"cannot be negative: the file is damaged, write or copy the corpus again"
            )
        ends = end + np.cumsum(sizes * dtype.itemsize)
        wrong = offsets[block] != np.concatenate([[end], ends[:-1]])
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InputError(
                f"{path} says that sequence {block.start + at} starts at byte "
                f"{int(offsets[block][at])} of {path.stem}.bin, but the lengths before "
                f"it end at byte {int(ends[at - 1]) if at else end}; the file is damaged: write or "
                f"copy the corpus again"
            )
        end = int(ends[-1])
    return end


def _groups_sequences(path: Path, boundaries: NDArray[np.int64], num_sequences: int) -> bool:
    """Whether some document is not one sequence. Refuse boundaries that skip sequences."""
    if len(boundaries) < 2 or boundaries[0] != 0 or boundaries[-1] != num_sequences:
        first, last = (int(boundaries[i]) if len(boundaries) else "none" for i in (0, -1))
        raise InputError(
            f"{path} has document boundaries from {first} to {last}, but its "
            f"{counted(num_sequences, 'sequence')} need 0 to {num_sequences}; write the corpus "
            f"again and end every document (in Megatron: IndexedDatasetBuilder.end_document)"
        )
    grouped = len(boundaries) != num_sequences + 1
    for block in _blocks(len(boundaries)):
        here = boundaries[max(0, block.start - 1) : block.stop]
        falls = here[1:] < here[:-1]
        if falls.any():
            raise InputError(
                f"{path} has decreasing document boundaries after "
                f"{int(here[np.argmax(falls)])}; the file is damaged: write or copy the corpus "
                f"again"
            )
        grouped = grouped or not np.array_equal(
            boundaries[block], np.arange(block.start, block.stop)
        )
    return grouped


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))


class IndexedDatasetWriter:
    """Writes ``PREFIX.bin`` document by document, and ``PREFIX.idx`` at the end.

    Use it as a context manager. The files are incomplete before it ends, so write them to a
    temporary prefix and rename them.
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
        """Append documents.

        Args:
            values: The values of all of them, in order.
            lengths: The number of values of each.
        """
        self._data.write(np.ascontiguousarray(values, self.dtype).tobytes())
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())


def write_index(path: Path, dtype: np.dtype[Any], lengths: NDArray[np.int32]) -> None:
    """Write the ``.idx`` of contiguous documents, in blocks.

    Args:
        path: The file.
        dtype: The dtype of the values in the ``.bin``.
        lengths: Values of each document, shape ``(num_documents,)``.
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
