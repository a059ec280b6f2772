# SPDX-License-Identifier: Apache-2.0
"""What is known of the files of a corpus, so that they need not be read to be recognized.

``PREFIX_corpus.json`` has it for corpora that this project made, and the first rank of a run hands
it on to the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.corpus.document_index import DocumentIndex
from megatron_packing.corpus.fingerprint import fingerprint_of
from megatron_packing.corpus.indexed_dataset import (
    HEADER,
    data_path,
    decode_header,
    index_path,
    map_columns,
    open_index_file,
    read_index,
)
from megatron_packing.corpus.storage import open_data_file
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import look_at, place_in, size_of


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownPair:
    """A ``.bin/.idx`` pair that was read and found right."""

    data_bytes: int
    """The size of the ``.bin``."""
    index_bytes: int
    """The size of the ``.idx``."""
    index_header: str
    """The first 34 bytes of the ``.idx``, in hex."""
    num_documents: int
    groups_sequences: bool = False
    """Whether some document is not one sequence of the ``.idx``."""

    @classmethod
    def of(cls, prefix: Path, index: DocumentIndex) -> KnownPair:
        """Describe a pair whose index was read."""
        path = index_path(prefix)
        with open_index_file(path) as file:
            header = file.read(HEADER.size)
        return cls(
            data_bytes=index.num_bytes,
            index_bytes=size_of(path),
            index_header=header.hex(),
            num_documents=index.num_documents,
            groups_sequences=index.groups_sequences,
        )

    def places_at(
        self, prefix: Path, data_size: int | None = None, *, newest: int | None = None
    ) -> list[list[int]] | None:
        """Return ``place_of`` both files if they have these sizes and this header, else None.

        Args:
            prefix: Their path without the ending.
            data_size: The size of a ``.bin`` that is stored elsewhere.
            newest: When the files of this machine were last changed at the latest, in nanoseconds;
                None for any time.

        Returns:
            An empty list for a ``.bin`` that is stored elsewhere.

        Raises:
            UnreadableError: A file is missing.
        """
        with open_index_file(index_path(prefix)) as file:
            index = os.fstat(file.fileno())
            seen = [index] if data_size is not None else [index, look_at(data_path(prefix))]
            if data_size is None:
                data_size = seen[1].st_size
                if newest is not None and any(status.st_mtime_ns > newest for status in seen):
                    return None
            if [index.st_size, data_size] != [self.index_bytes, self.data_bytes]:
                return None
            if file.read(HEADER.size).hex() != self.index_header:
                return None
        return [place_in(status) for status in seen] if len(seen) == 2 else []

    def check_sizes(self, prefix: Path, where: str, data_size: int | None = None) -> None:
        """Refuse files of other sizes.

        Args:
            prefix: Their path without the ending.
            where: Who knows the sizes: "rank 0".
            data_size: The size of a ``.bin`` that is stored elsewhere.

        Raises:
            UnreadableError: A file is missing, or has another size, perhaps because it is cut off.
        """
        path, data = index_path(prefix), data_path(prefix)
        found = size_of(data) if data_size is None else data_size
        for file, size, expected in (
            (path, size_of(path), self.index_bytes),
            (data, found, self.data_bytes),
        ):
            if size != expected:
                raise UnreadableError(
                    f"{file} has {size} bytes here, but {expected} on {where}; the file is "
                    f"truncated or belongs to another corpus: write or copy it again"
                )

    def open(self, prefix: Path) -> DocumentIndex:
        """Describe the documents of the files without reading them; they are mapped when used.

        Raises:
            InputError: The header is none of a ``.idx``; or, at the first use, the file changed.
        """
        path = index_path(prefix)
        header = bytes.fromhex(self.index_header)
        dtype, num_sequences, _ = decode_header(path, header, self.index_bytes)

        def columns() -> tuple[Any, Any]:
            if self.groups_sequences:
                index = read_index(prefix, data_size=self.data_bytes)
                return index.lengths, index.offsets
            found, lengths, offsets, _ = map_columns(path)
            if found != header:
                raise InputError(
                    f"{path} was replaced after the corpus was opened; start the run again"
                )
            return lengths, offsets

        if not self.groups_sequences and num_sequences != self.num_documents:
            raise InputError(
                f"{path} has {num_sequences:,} sequences for {self.num_documents:,} documents; "
                f"write or copy the corpus again"
            )
        return DocumentIndex(
            dtype,
            self.num_documents,
            self.data_bytes // dtype.itemsize,
            columns,
            groups_sequences=self.groups_sequences,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFiles:
    """The files of a corpus, and their fingerprint."""

    fingerprint: str
    tokens: KnownPair
    loss_mask: KnownPair | None
    """None if every token is trained."""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "fingerprint": self.fingerprint,
            "tokens": _pair_as_json(self.tokens),
            "loss_mask": None if self.loss_mask is None else _pair_as_json(self.loss_mask),
        }

    @classmethod
    def from_json(cls, found: object, refuse: Callable[[str, object], InputError]) -> KnownFiles:
        """Read what ``as_json`` gave.

        Args:
            found: JSON values.
            refuse: Makes the error for a field and what was found in it.

        Raises:
            InputError: Made by ``refuse``.
        """
        if not isinstance(found, dict) or not isinstance(found.get("fingerprint"), str):
            raise refuse("files", found)
        mask = found.get("loss_mask")
        return cls(
            fingerprint=found["fingerprint"],
            tokens=_pair_from_json("files.tokens", found.get("tokens"), refuse),
            loss_mask=None if mask is None else _pair_from_json("files.loss_mask", mask, refuse),
        )


def describe_files(
    tokens: tuple[Path, Path, np.dtype[Any]],
    masks: tuple[Path, Path] | None,
    lengths: NDArray[np.integer],
) -> KnownFiles:
    """Describe the files of a corpus that was just written, for its record.

    Args:
        tokens: Its ``.idx``, its ``.bin``, and the dtype of tokens.
        masks: Those of the loss mask; None without one.
        lengths: Shape ``(num_documents,)``: tokens of each document.
    """
    total = int(lengths.sum(dtype=np.int64))

    def describe(index: Path, data: Path, dtype: np.dtype[Any]) -> tuple[KnownPair, Any, Any]:
        columns = lengths, np.zeros(0, np.int64)  # a fingerprint has no offsets
        documents = DocumentIndex(dtype, len(lengths), total, lambda: columns)
        with open_index_file(index) as file:
            header = file.read(HEADER.size)
        pair = KnownPair(
            data_bytes=documents.num_bytes,
            index_bytes=size_of(index),
            index_header=header.hex(),
            num_documents=len(lengths),
        )
        return pair, documents, open_data_file(data, documents.num_bytes)

    pair, documents, data = describe(*tokens)
    mask, reader = None, None
    if masks is not None:
        mask, *reader = describe(*masks, np.dtype(np.uint8))
    found = fingerprint_of(documents, data, None if reader is None else (reader[0], reader[1]))
    return KnownFiles(fingerprint=found, tokens=pair, loss_mask=mask)


def _pair_as_json(pair: KnownPair) -> dict[str, Any]:
    values: dict[str, Any] = {
        "data_bytes": pair.data_bytes,
        "index_bytes": pair.index_bytes,
        "index_header": pair.index_header,
        "num_documents": pair.num_documents,
    }
    return values | ({"groups_sequences": True} if pair.groups_sequences else {})


def _pair_from_json(
    name: str, found: object, refuse: Callable[[str, object], InputError]
) -> KnownPair:
    if not isinstance(found, dict):
        raise refuse(name, found)
    for field in ("data_bytes", "index_bytes", "num_documents"):
        value = found.get(field)
        if type(value) is not int or not 0 <= value < 2**63:
            raise refuse(f"{name}.{field}", value)
    header = found.get("index_header")
    try:
        size = len(bytes.fromhex(header)) if isinstance(header, str) else -1
    except ValueError:
        size = -1
    if size != HEADER.size:
        raise refuse(f"{name}.index_header", header)
    if type(grouped := found.get("groups_sequences", False)) is not bool:
        raise refuse(f"{name}.groups_sequences", grouped)
    return KnownPair(
        data_bytes=found["data_bytes"],
        index_bytes=found["index_bytes"],
        index_header=str(header),
        num_documents=found["num_documents"],
        groups_sequences=grouped,
    )
