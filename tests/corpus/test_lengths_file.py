# SPDX-License-Identifier: Apache-2.0
"""Files of lengths: read in place, and refused by name."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from megatron_packing.corpus.lengths_file import read_lengths
from megatron_packing.errors import InputError


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, ">i4"])
def test_lengths_are_mapped_as_they_were_written(tmp_path, dtype):
    path = tmp_path / "lengths.npy"
    np.save(path, np.array([3, 0, 127], dtype))
    lengths = read_lengths(path)
    assert isinstance(lengths, np.memmap)
    assert lengths.dtype == np.dtype(dtype)
    assert lengths.tolist() == [3, 0, 127]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, 2.0]), "has dtype float64; lengths must be integers"),
        (np.array([True]), "has dtype bool; lengths must be integers"),
        (np.array(["7"]), "lengths must be integers"),
        (np.array([(1, 2)], "i4,i4"), "lengths must be integers"),
        (np.array([1, None]), "holds pickled Python objects"),
        (np.ones((2, 3), int), r"has shape \(2, 3\); lengths must have one dimension"),
        (np.array(5), r"has shape \(\); lengths must have one dimension"),
        (np.zeros(0, int), "is empty; there is nothing to pack"),
        (np.array([4, -1, -2]), "has length -2 at document 2; lengths must be 0 or more"),
        (np.array([4, 2**63], np.uint64), "has length 9223372036854775808 at document 1"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, message):
    path = tmp_path / "lengths.npy"
    np.save(path, array)
    with pytest.raises(InputError, match=message) as refusal:
        read_lengths(path)
    assert str(refusal.value).startswith(str(path))


def test_what_is_no_npy_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"missing\.npy does not exist; write a one-dim"):
        read_lengths(tmp_path / "missing.npy")
    with pytest.raises(InputError, match=r"is not a file; write a one-dim"):
        read_lengths(tmp_path)
    for content in (b"", b"\x80\x04K\x01.", b"1\n2\n3\n", b"PK\x03\x04"):
        path = tmp_path / "lengths.npy"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as a \.npy file: it does not"):
            read_lengths(path)


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "lengths.npy"
    np.save(path, np.arange(100, dtype=np.int32))
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(InputError, match=r"has 396 bytes of data, but 100 lengths .* truncated"):
        read_lengths(path)
    for size in range(6, len(whole) - 400):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"damaged .npy header \(.*\); write it again"):
            read_lengths(path)
    random = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[random.integers(6, 90)] = random.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):  # no other error, and no crash
            read_lengths(path)
