# SPDX-License-Identifier: Apache-2.0
"""Writes and checks ``SHA256SUMS``, the hashes of a folder's files in the format of sha256sum."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from megatron_packing.errors import InputError
from megatron_packing.files.whole import sync

CHECKSUMS = "SHA256SUMS"
_BLOCK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(folder: Path, names: Sequence[str]) -> None:
    """Write the hashes of a folder's files into that folder."""
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in names]
    path = folder / CHECKSUMS
    path.write_text("".join(lines), encoding="utf-8")
    sync(path)


def check_checksum(path: Path, sha256: str) -> None:
    """Compare a file's hash with ``SHA256SUMS`` beside it, if that exists.

    Raises:
        InputError: The hashes differ.
    """
    try:
        text = (path.parent / CHECKSUMS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        expected, _, name = line.partition("  ")
        if name == path.name and expected != sha256:
            raise InputError(
                f"{path} was changed or damaged: its hash differs from the one in "
                f"{path.parent / CHECKSUMS}; copy or export it again"
            )
