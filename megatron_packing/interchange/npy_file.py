# SPDX-License-Identifier: Apache-2.0
"""Writes and reads stored rows as a ``.npy`` file of Python objects.

NeMo 2.x and Megatron-Bridge 0.3 use this format: numpy's header and a pickle of an array of dicts
of lists. It is written row by row, and read without running any code that it names.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError
from megatron_packing.interchange.inert_pickle import load_inert
from megatron_packing.interchange.stored_rows import COLUMNS, StoredRow


def write_npy(path: Path, rows: Iterable[StoredRow], count: int) -> None:
    """Write ``count`` rows one by one, in the format of ``numpy.save`` for dicts of lists."""
    dtype = np.dtype(object)
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        # numpy pickles _reconstruct(ndarray, (0,), b"b") and then sets its state, a tuple of
        # version, shape, dtype, order and a list of the elements.
        file.write(pickle.PROTO + b"\x02")
        file.write(b"cnumpy.core.multiarray\n_reconstruct\n")
        file.write(_pickled((np.ndarray, (0,), b"b")) + pickle.REDUCE)
        file.write(pickle.MARK + _pickled(1) + _pickled((count,)) + _pickled(dtype))
        file.write(_pickled(False) + pickle.EMPTY_LIST)
        for row in rows:
            lists = {name: getattr(row, name).tolist() for name in COLUMNS}
            file.write(_pickled(lists) + pickle.APPEND)
        file.write(pickle.TUPLE + pickle.BUILD + pickle.STOP)


def _pickled(value: Any) -> bytes:
    """Return the part of a pickle that pushes ``value`` onto the stack."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=2)
    pickler.fast = True  # without a memo, so that parts can be concatenated
    pickler.dump(value)
    return buffer.getvalue()[2:-1]  # without the two protocol bytes and the stop byte


def read_npy(path: Path) -> Iterator[StoredRow]:
    """Read rows. The format requires the whole file in memory.

    Raises:
        InputError: The file does not hold packed rows, or names anything except numpy arrays.
    """
    with path.open("rb") as file:
        rows = _load(path, file)
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not set(COLUMNS) <= row.keys():
            raise InputError(
                f"{path} row {number} is not a dict with {', '.join(COLUMNS)}; give a file of "
                f"packed sequences from NeMo or Megatron-Bridge"
            )
        yield StoredRow(*(_integers(path, number, row[name]) for name in COLUMNS))


def _integers(path: Path, number: int, values: Any) -> NDArray[np.int64]:
    """Convert a list of integers, or of numbers that equal integers, to int64."""
    try:
        array = np.asarray(values)
        with np.errstate(invalid="ignore"):  # values that are not integers; compared below
            integers = array.astype(np.int64)
        if array.dtype.kind in "iubf" and np.array_equal(integers, array):
            return integers
    except (TypeError, ValueError, OverflowError):
        pass
    held = "null" if values is None else " ".join(f"{values!r:.80}".split())
    raise InputError(
        f"{path} row {number} holds {held} instead of a list of integers; write the file again"
    )


def _load(path: Path, file: BinaryIO) -> list[Any]:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if not dtype.hasobject:
            raise InputError(
                f"{path} holds numbers of type {dtype}, not packed rows; give a file of packed "
                f"sequences from NeMo or Megatron-Bridge"
            )
        try:
            loaded = load_inert(file)
        except InputError as error:
            raise InputError(f"{path} is refused: {error}") from error
        if isinstance(loaded, list) and shape != (len(loaded),):
            raise ValueError(f"it has {len(loaded)} rows, but its header says shape {shape}")
    except InputError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        reason = " ".join((str(error) or type(error).__name__).split())
        raise InputError(
            f"{path} cannot be read as a file of packed sequences ({reason:.200})"
        ) from error
    if not isinstance(loaded, list):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not an array of packed rows")
    return loaded
