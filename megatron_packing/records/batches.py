# SPDX-License-Identifier: Apache-2.0
"""Batches of records on their way from a file to a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from megatron_packing.records.record import RecordError, parse_json
from megatron_packing.records.rows import table_rows


@dataclass(frozen=True, slots=True)
class Position:
    """How far the inputs are read: where a run that was stopped goes on."""

    input: int = 0
    """Which input is read next."""
    number: int = 0
    """Lines, or records, of it that were read."""
    offset: int = 0
    """Bytes of it that were read, where it can be gone to."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for a record that could not be read from its file."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Neighboring records of one input."""

    input: int
    """Which input, from 0."""
    first: int
    """The number of the first line, or record, from 1."""
    payload: list[Any] | bytes
    """JSON texts, ``None`` for blank lines, parsed objects or ``Unreadable``; or, of a table,
    rows as an Arrow stream."""
    num_records: int
    """Without blank lines."""
    end: Position
    """Where what follows is read."""
    progress: int
    """Bytes of all inputs read so far, about."""

    def records(self) -> Iterator[tuple[int, Callable[[], Any]]]:
        """The number of each record and a function that gives it or raises RecordError."""
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
        if b"\x00" in item:  # the parser would take it for UTF-16, and the rest of a line for none
            raise RecordError(
                "not UTF-8", "it has zero bytes, as UTF-16 text has; convert the file to UTF-8"
            )
        return parse_json(item)
    if isinstance(item, Unreadable):
        raise RecordError(item.kind, item.reason)
    return item
