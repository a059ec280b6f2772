"""Lengths of documents in a file: enough to plan packs where there is no corpus yet."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError


def read_lengths(path: Path) -> NDArray[np.integer]:
    """Read ``FILE.npy``: positions (tokens less one) of each document, memory-mapped.

    Raises:
        InputError: It is not a numpy file of integers, one-dimensional and not empty.
    """
    wanted = "write one with numpy.save: a one-dimensional array of integers, tokens less one"
    try:
        lengths: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; {wanted}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a .npy file ({error}); {wanted}") from error
    if not isinstance(lengths, np.ndarray):
        raise InputError(f"{path} is an archive of arrays; {wanted}")
    if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or lengths.size == 0:
        raise InputError(f"{path} holds {lengths.dtype} of shape {lengths.shape}; {wanted}")
    return lengths


class LengthsFile:
    """A file of lengths in the place of a corpus."""

    def __init__(self, path: str | Path) -> None:
        """Open the file.

        Raises:
            InputError: It does not hold lengths.
        """
        self.prefix = Path(path)
        self.lengths = read_lengths(self.prefix)

    def __len__(self) -> int:
        """Documents."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> NDArray[np.int64]:
        """Tokens of each document, shape ``(len(self),)``: one more than positions."""
        return self.lengths.astype(np.int64) + 1

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the lengths, which no corpus has."""
        lengths = np.ascontiguousarray(self.lengths, np.int64)
        return f"lengths-sha256:{hashlib.sha256(lengths).hexdigest()}"
