# SPDX-License-Identifier: Apache-2.0
"""Batches of records, as they are sent from the reader to a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from megatron_packing.records.record import RecordError, parse_json
from megatron_packing.records.rows import table_rows


@dataclass(frozen=True, slots=True)
class Position:
    """How much of the inputs was read. A stopped run continues there."""

    input: int = 0
    """The number of the input that is read next, from 0."""
    number: int = 0
    """How many of its lines or records were read."""
    offset: int = 0
    """How many of its bytes were read, if the reader can seek there; else 0."""


UNREADABLE_FILE = "unreadable file"
"""The kind of an ``Unreadable`` that takes the place of the rest of a file."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Takes the place of a record that could not be read from its file."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of one input."""

    input: int
    """The number of the input, from 0."""
    first: int
    """The number of the first line or record, from 1."""
    payload: list[Any] | bytes
    """The rows of a table as an Arrow stream. For other formats a list: each item is a JSON text,
    a parsed object, ``None`` for a blank line, or ``Unreadable``."""
    num_records: int
    """How many records, without blank lines."""
    end: Position
    """Where the next batch starts."""
    progress: int
    """About how many bytes of all inputs were read so far."""

    def records(self) -> Iterator[tuple[int, Callable[[], Any]]]:
        """Yield the number of each record, and a function that returns it or raises RecordError."""
        if isinstance(self.payload, bytes):
            import pyarrow

            with pyarrow.ipc.open_stream(self.payload) as stream:
                rows = table_rows(stream.read_all())
            for number, row in enumerate(rows, self.first):
                yield number, partial(_read, row)
            return
        for number, item in enumerate(self.payload, self.first):
            if item is not None:
                yield number, partial(_read, item)


def _read(item: Any) -> Any:
    if isinstance(item, bytes):
        if b"\x00" in item:  # the parser would guess UTF-16
            raise RecordError(
                "not UTF-8", "it has zero bytes, as in UTF-16; convert the file to UTF-8"
            )
        return parse_json(item)
    if isinstance(item, Unreadable):
        raise RecordError(item.kind, item.reason)
    return item
