"""Reads records from inputs in order, in batches, within bounded memory, from any position on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from megatron_packing.errors import InputError
from megatron_packing.prepare.batches import Position, RecordBatch, Unreadable
from megatron_packing.prepare.inputs import InputFile
from megatron_packing.prepare.json_array import read_elements

_BATCH_BYTES = 1 << 18
_ROWS_AT_A_TIME = 64


def read_batches(
    inputs: Sequence[InputFile], start: Position, max_record_bytes: int
) -> Iterator[RecordBatch]:
    """Yield all records from a position on.

    What cannot be read further, such as a compressed file that is cut off, yields one last
    ``Unreadable`` in the place of the rest.

    Args:
        inputs: The files, in order.
        start: Where to begin; ``Position()`` is the beginning.
        max_record_bytes: A longer line yields ``Unreadable`` and is never held in memory.
    """
    done = sum(file.size for file in inputs[: start.input])
    for number in range(start.input, len(inputs)):
        file = inputs[number]
        position = start if number == start.input else Position(number)
        reader = _Reader(number, file, done, position)
        if file.format in ("lines", "array"):
            yield from reader.texts(max_record_bytes)
        elif file.format == "parquet":
            yield from reader.parquet()
        else:
            yield from reader.dataset()
        done += file.size


class _Reader:
    """Reads one input."""

    def __init__(self, number: int, file: InputFile, done: int, start: Position) -> None:
        self._number = number
        self._file = file
        self._done = done
        self._next = start.number
        self._start = start

    def texts(self, limit: int) -> Iterator[RecordBatch]:
        """Lines, or the elements of an array."""
        with self._file.open() as (unpacked, stored):
            offset = 0
            skip = self._next
            read = read_elements if self._file.format == "array" else _lines
            can_seek = self._file.format == "lines" and not self._file.compression
            if can_seek:
                unpacked.seek(self._start.offset)
                offset, skip = self._start.offset, 0
            items: list[Any] = []
            size = num_records = 0
            broken = False
            try:
                for text in read(unpacked, limit):
                    if skip:
                        skip -= 1
                        continue
                    length = text if isinstance(text, int) else len(text)
                    offset += length if can_seek else 0
                    item: bytes | Unreadable | None
                    if isinstance(text, int):
                        item = _too_long(length, limit)
                    elif self._file.format == "array":
                        item = text
                    else:
                        item = _line(text, first=self._next + len(items) == 0)
                    items.append(item)
                    size += length if isinstance(text, bytes) else 0
                    num_records += item is not None
                    if size >= _BATCH_BYTES:
                        yield self._batch(items, num_records, offset, stored.tell())
                        items, size, num_records = [], 0, 0
            except Exception as error:
                items.append(_rest(error))
                num_records += 1
                broken = True
            if items:
                yield self._batch(items, num_records, offset, self._file.size, at_end=broken)

    def parquet(self) -> Iterator[RecordBatch]:
        import pyarrow.parquet

        with self._file.open() as (stored, _):
            try:
                # Buffered, so that a row group is not read as a whole.
                table = pyarrow.parquet.ParquetFile(stored, buffer_size=1 << 20, pre_buffer=False)
                rows = table.iter_batches(_ROWS_AT_A_TIME, use_threads=False)
                yield from self._rows(rows, table.metadata.num_rows, skip=self._next)
            except Exception as error:
                yield self._batch([_rest(error)], 1, 0, self._file.size, at_end=True)

    def dataset(self) -> Iterator[RecordBatch]:
        try:
            import datasets
        except ImportError as error:
            raise InputError(
                f"the input {self._file.name} needs datasets, which is not installed; "
                f"install it with: pip install 'megatron-packing[datasets]'"
            ) from error
        saved = datasets.load_from_disk(self._file.name).with_format("arrow")
        if self._next == len(saved):
            return
        tables = saved.skip(self._next).iter(_ROWS_AT_A_TIME)
        batches = (batch for table in tables for batch in table.to_batches())
        yield from self._rows(batches, len(saved), skip=0)

    def _rows(self, batches: Iterator[Any], total: int, skip: int) -> Iterator[RecordBatch]:
        """Pass rows on as Arrow streams, which hold these rows and not what they are a slice of."""
        import pyarrow

        for rows in batches:
            if skip >= rows.num_rows:
                skip -= rows.num_rows
                continue
            rows = rows.slice(skip)
            skip = 0
            step = max(1, min(rows.num_rows, rows.num_rows * _BATCH_BYTES // max(rows.nbytes, 1)))
            for start in range(0, rows.num_rows, step):
                part = rows.slice(start, step)
                sink = pyarrow.BufferOutputStream()
                with pyarrow.ipc.new_stream(sink, part.schema) as stream:
                    stream.write_batch(part)
                read = self._file.size * (self._next + part.num_rows) // total
                yield self._batch(sink.getvalue().to_pybytes(), part.num_rows, 0, read)

    def _batch(
        self,
        payload: list[Any] | bytes,
        num_records: int,
        offset: int,
        stored: int,
        at_end: bool = False,
    ) -> RecordBatch:
        """What was read. ``at_end``: there is no going on in a file that cannot be read."""
        first = self._next + 1
        self._next += num_records if isinstance(payload, bytes) else len(payload)
        return RecordBatch(
            input=self._number,
            first=first,
            payload=payload,
            num_records=num_records,
            end=Position(self._number + 1)
            if at_end
            else Position(self._number, self._next, offset),
            progress=self._done + stored,
        )


def _lines(file: BinaryIO, limit: int) -> Iterator[bytes | int]:
    """Yield each line, or its length where it is longer than the limit."""
    while line := file.readline(limit + 1):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
            continue
        length = len(line)
        while part := file.readline(1 << 20):
            length += len(part)
            if part.endswith(b"\n"):
                break
        yield length


def _line(line: bytes, first: bool) -> bytes | None:
    if first:
        line = line.removeprefix(b"\xef\xbb\xbf")
    return line if line.strip() else None


def _too_long(length: int, limit: int) -> Unreadable:
    return Unreadable(
        "too long", f"it has {length:,} bytes, more than --max-record-bytes {limit:,}"
    )


def _rest(error: Exception) -> Unreadable:
    """What stands for the rest of a file; errors of the machine are not the file's."""
    # pyarrow raises errors without a number for what it cannot read.
    if not isinstance(error, (EOFError, ValueError)) and not (
        isinstance(error, OSError) and error.errno is None
    ):
        raise error
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    return Unreadable("unreadable file", f"from here on the file cannot be read ({reason})")
