# SPDX-License-Identifier: Apache-2.0
"""Loads a pickled array of numbers, lists and dicts without running any code of the pickle.

A pickle is a program: it names functions to call and objects whose state to set. Even numpy's own
array and dtype are unsafe, because their state decides which memory is read. So a pickle may name
only the classes and functions below, which just hold values.
"""

from __future__ import annotations

import math
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from megatron_packing.errors import InputError

_NUMBERS = ("b1", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_DTYPE_VERSION = 3
_OBJECT_FLAGS = 63  # NPY_OBJECT_DTYPE_FLAGS
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
# An integer of 3 bytes becomes an object of 32 bytes and a list entry.
_MEMORY_OF_A_BYTE = 64
_MEMORY_TO_BEGIN = 1 << 30


def load_inert(file: BinaryIO) -> Any:
    """Load a pickle; arrays of objects become lists, arrays of numbers stay arrays.

    Raises:
        InputError: The pickle names anything that arrays of numbers, lists and dicts do not need.
        Exception: The pickle is damaged; any type. MemoryError if it needs more memory than a
            valid pickle of its size can.
    """
    with _bounded_memory(os.fstat(file.fileno()).st_size):
        return _plain(_Loader(file).load())


@contextmanager
def _bounded_memory(num_bytes: int) -> Iterator[None]:
    """Limit the memory that a pickle of this size may use.

    A damaged pickle can give an object the number four billion, and C's unpickler then allocates a
    table of that size.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY_TO_BEGIN + _MEMORY_OF_A_BYTE * num_bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        bound = min(bound, soft)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _DType:
    """The dtype of a pickled array."""

    def __init__(self, kind: str, *_: Any) -> None:
        self.is_object = kind in ("O", "O8", "O4")
        self.order = "="
        if not self.is_object and kind not in _NUMBERS:
            raise ValueError(f"unsupported dtype {kind!r}")
        self.kind = kind

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, order, *rest = state
        if order not in ("<", ">", "=", "|"):
            raise ValueError(f"unknown byte order {order!r}")
        flags = _OBJECT_FLAGS if self.is_object else 0
        if version != _DTYPE_VERSION or rest != [None, None, None, -1, -1, flags]:
            raise ValueError("malformed dtype state")
        self.order = order

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.kind).newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """The values of a pickled array."""

    def __init__(self) -> None:
        self.values: Any = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, is_fortran, values = state
        is_plain = version == 1 and isinstance(dtype, _DType) and is_fortran in (False, 0)
        if not is_plain or not all(type(size) is int and size >= 0 for size in shape):
            raise TypeError("malformed array state")
        if dtype.is_object:
            if not isinstance(values, list) or shape != (len(values),):
                raise TypeError("the length of an object array does not match its shape")
            self.values = values
            return
        if isinstance(values, str):
            values = values.encode("latin1")
        if not isinstance(values, bytes):
            raise TypeError("the data of an array is not bytes")
        numbers = np.frombuffer(values, dtype.numpy)
        if len(numbers) != math.prod(shape):
            raise ValueError(f"an array of shape {shape} has {len(numbers)} numbers")
        self.values = numbers.reshape(shape)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _DType) or dtype.is_object or not isinstance(data, bytes):
        raise TypeError("malformed number")
    return np.frombuffer(data, dtype.numpy)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("bytes are not encoded as latin1")
    return text.encode("latin1")


class _NoClass:
    """Takes the place of ``numpy.ndarray``, which a pickle names as the type of an array."""

    def __new__(cls, *_: Any) -> _NoClass:
        raise TypeError("arrays cannot be created by calling numpy.ndarray")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NoClass,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(module, "_reconstruct"): _reconstruct for module in _MODULES},
    **{(module, "scalar"): _scalar for module in _MODULES},
}


class _Loader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            named = f"{module}.{name}".encode("unicode_escape").decode()
            raise InputError(
                f"its pickle names {named:.80}, which packed sequences do not need, so it may be a "
                f"malicious program; do not trust the file"
            )
        return _NAMES[module, name]


def _plain(value: Any) -> Any:
    """Unwrap arrays: return plain lists, dicts and numpy arrays."""
    if isinstance(value, _Array):
        return _plain(value.values)
    if isinstance(value, list):
        return [_plain(item) for item in value] if _has_arrays(value) else value
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _has_arrays(values: list[Any]) -> bool:
    return any(isinstance(item, (_Array, list, dict)) for item in values)
