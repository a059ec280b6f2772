# SPDX-License-Identifier: Apache-2.0
"""Stored rows as a ``.npy`` file of Python objects: NeMo 2.x and Megatron-Bridge up to 0.3.

Such a file is numpy's header and a pickle of an array of dicts of lists. Here it is written as it
comes, and read without running any code that it names.
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
    """Write ``count`` rows as they come: what ``numpy.save`` makes of a list of dicts of lists."""
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
    """The part of a pickle that puts ``value`` on the stack."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=2)
    pickler.fast = True  # without a memo, so that parts can follow each other
    pickler.dump(value)
    return buffer.getvalue()[2:-1]  # between the protocol's two bytes and the stop


def read_npy(path: Path) -> Iterator[StoredRow]:
    """Read rows. The file is held in memory as a whole, as its format asks.

    Raises:
        InputError: It does not hold packed rows, or names anything but numpy arrays.
    """
    with path.open("rb") as file:
        rows = _load(path, file)
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not set(COLUMNS) <= row.keys():
            raise InputError(
                f"{path} row {number} is no dict of {', '.join(COLUMNS)}; give a file of packed "
                f"sequences that NeMo or Megatron-Bridge wrote"
            )
        yield StoredRow(*(_integers(path, number, row[name]) for name in COLUMNS))


def _integers(path: Path, number: int, values: Any) -> NDArray[np.int64]:
    """A list of integers, or of what equals integers."""
    try:
        array = np.asarray(values)
        with np.errstate(invalid="ignore"):  # of what is no integer; it is compared below
            integers = array.astype(np.int64)
        if array.dtype.kind in "iubf" and np.array_equal(integers, array):
            return integers
    except (TypeError, ValueError, OverflowError):
        pass
    held = "null" if values is None else " ".join(f"{values!r:.80}".split())
    raise InputError(f"{path} row {number} holds {held} where a list of integers must be")


def _load(path: Path, file: BinaryIO) -> list[Any]:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if not dtype.hasobject:
            raise InputError(
                f"{path} holds numbers of {dtype}, not packed rows; give a file of packed "
                f"sequences that NeMo or Megatron-Bridge wrote"
            )
        try:
            loaded = load_inert(file)
        except InputError as error:
            raise InputError(f"{path} is refused: {error}") from error
        if isinstance(loaded, list) and shape != (len(loaded),):
            raise ValueError(f"it has {len(loaded)} rows and says that its shape is {shape}")
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
