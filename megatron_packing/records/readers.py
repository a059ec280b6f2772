# SPDX-License-Identifier: Apache-2.0
"""Reads records from inputs in order, in batches, within bounded memory, from any position on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from megatron_packing.errors import InputError, missing
from megatron_packing.records import storage
from megatron_packing.records.batches import Position, RecordBatch, Unreadable
from megatron_packing.records.inputs import InputFile
from megatron_packing.records.json_array import read_elements, read_objects
from megatron_packing.records.rows import refuse_same_names
from megatron_packing.records.storage import Download, Downloads

_BATCH_BYTES = 1 << 18
_ROWS_AT_A_TIME = 64
_BOM = b"\xef\xbb\xbf"

OnDigest = Callable[[int, str, int], None]
"""Called with the number of a remote input that was read wholly, its SHA-256 and its bytes."""


def read_batches(
    inputs: Sequence[InputFile],
    start: Position,
    max_record_bytes: int,
    spool: Path | None = None,
    on_digest: OnDigest | None = None,
) -> Iterator[RecordBatch]:
    """Yield all records from a position on.

    What cannot be decoded further, such as a compressed file that is cut off, yields one last
    ``Unreadable`` in the place of the rest. Remote files are downloaded once, from their beginning.

    Args:
        inputs: The files, in order.
        start: Where to begin; ``Position()`` is the beginning.
        max_record_bytes: A longer line yields ``Unreadable`` and is never held in memory.
        spool: A folder with room for copies of remote tables; None is that of temporary files.
        on_digest: Told the digests of remote inputs.

    Raises:
        StorageError: A file could not be read, whatever it holds.
    """
    done = sum(file.size for file in inputs[: start.input])
    rest = inputs[start.input :]
    streamed = [one for one in rest if not one.is_local and one.format != "dataset"]
    with Downloads(list(streamed)) as downloads:
        for number, file in enumerate(rest, start.input):
            position = start if number == start.input else Position(number)
            reader = _Reader(number, file, done, position, spool)
            if file.format == "dataset":
                yield from reader.dataset(on_digest)
            elif file.is_local:
                yield from reader.read(None, max_record_bytes)
            else:
                with downloads.open(file) as download:
                    yield from reader.read(download, max_record_bytes)
                    digest, size = download.finish()
                    if on_digest is not None:
                        on_digest(number, digest, size)
            done += file.size


class _Reader:
    """Reads one input."""

    def __init__(
        self, number: int, file: InputFile, done: int, start: Position, spool: Path | None
    ) -> None:
        self._number = number
        self._file = file
        self._done = done
        self._next = start.number
        self._start = start
        self._spool = spool

    def read(self, download: Download | None, max_record_bytes: int) -> Iterator[RecordBatch]:
        """All of a file's records."""
        if self._file.format in ("parquet", "arrow"):
            return self._table(download)
        return self._texts(download, max_record_bytes)

    def _texts(self, download: Download | None, limit: int) -> Iterator[RecordBatch]:
        """Lines, or the elements of an array, or objects one after another."""
        with self._file.open(download) as (unpacked, stored):
            offset = 0
            skip = self._next
            read = {"lines": _lines, "array": read_elements, "objects": read_objects}[
                self._file.format
            ]
            is_lines = self._file.format == "lines"
            can_seek = is_lines and not self._file.compression
            if can_seek:
                _go_to(unpacked, self._start.offset, download)
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
                    elif not is_lines:
                        item = text
                    else:
                        item = _line(text)
                    items.append(item)
                    size += length if isinstance(text, bytes) else 0
                    num_records += item is not None
                    if size >= _BATCH_BYTES:
                        yield self._batch(items, num_records, offset, stored.tell())
                        items, size, num_records = [], 0, 0
            except Exception as error:
                items.append(_rest(error, stored))
                num_records += 1
                broken = True
            if items:
                yield self._batch(items, num_records, offset, self._file.size, at_end=broken)

    def _table(self, download: Download | None) -> Iterator[RecordBatch]:
        with self._local(download) as (table, stored):
            try:
                open_table = _open_parquet if self._file.format == "parquet" else _open_arrow
                schema, total, rows = open_table(table)
                refuse_same_names(self._file.name, schema)
                # Parquet is checked while it is decoded; Arrow is the memory's own form.
                is_checked = self._file.format == "parquet"
                yield from self._rows(rows, total, self._next, is_checked)
            except Exception as error:
                rest = _rest(error, stored)
                yield self._batch([rest], 1, 0, self._file.size, at_end=True)

    @contextmanager
    def _local(self, download: Download | None) -> Iterator[tuple[Any, Any]]:
        """A file in which one can go back and forth, and what knows whether reading it failed."""
        if download is None:
            with self._file.open() as both:
                yield both
        else:
            with storage.spool(download, self._spool) as copy:
                yield copy, download

    def dataset(self, on_digest: OnDigest | None) -> Iterator[RecordBatch]:
        """The rows of a folder that ``datasets`` saved."""
        try:
            import datasets
        except ImportError as error:
            raise missing(f"the input {self._file.name}", "datasets", "datasets") from error
        with ExitStack() as stack:
            folder = self._file.name
            if not self._file.is_local:
                folder = stack.enter_context(tempfile.TemporaryDirectory(dir=self._spool))
                digest, size = storage.spool_folder(self._file.name, Path(folder))
                if on_digest is not None:
                    on_digest(self._number, digest, size)
            try:
                saved = datasets.load_from_disk(folder).with_format("arrow")
                if self._next == len(saved):
                    return
                tables = saved.skip(self._next).iter(_ROWS_AT_A_TIME)
                batches = (batch for table in tables for batch in table.to_batches())
                yield from self._rows(batches, len(saved), 0, is_checked=False)
            except OSError as error:
                if error.errno is not None:
                    raise storage.cannot_read(self._file.name, error) from error
                yield self._batch([_rest(error, None)], 1, 0, self._file.size, at_end=True)
            except Exception as error:
                yield self._batch([_rest(error, None)], 1, 0, self._file.size, at_end=True)

    def _rows(
        self, batches: Iterator[Any], total: int, skip: int, is_checked: bool
    ) -> Iterator[RecordBatch]:
        """Pass rows on as Arrow streams, which hold these rows and not what they are a slice of."""
        for rows in batches:
            if skip >= rows.num_rows:
                skip -= rows.num_rows
                continue
            rows = rows.slice(skip)
            skip = 0
            step = max(1, min(rows.num_rows, rows.num_rows * _BATCH_BYTES // max(rows.nbytes, 1)))
            for start in range(0, rows.num_rows, step):
                part = rows.slice(start, step)
                for sound in [part] if is_checked else _sound_rows(part):
                    payload: Any = [sound] if isinstance(sound, Unreadable) else _stream(sound)
                    count = 1 if isinstance(sound, Unreadable) else sound.num_rows
                    share = (self._next + count) / max(total, self._next + count)
                    yield self._batch(payload, count, 0, int(self._file.size * share))

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


def _open_parquet(stored: Any) -> tuple[Any, int, Iterator[Any]]:
    import pyarrow.parquet

    # Buffered, so that a row group is not read as a whole.
    table = pyarrow.parquet.ParquetFile(
        stored, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
    )
    rows = table.iter_batches(_ROWS_AT_A_TIME, use_threads=False)
    return table.schema_arrow, table.metadata.num_rows, rows


def _open_arrow(stored: Any) -> tuple[Any, int, Iterator[Any]]:
    """Arrow's file format (Feather too), or its stream; the rows of a stream are not known."""
    import pyarrow.ipc

    is_file = stored.read(6) == b"ARROW1"
    stored.seek(0)
    if not is_file:
        stream = pyarrow.ipc.open_stream(stored)
        return stream.schema, 0, iter(stream)
    file = pyarrow.ipc.open_file(stored)
    batches = (file.get_batch(number) for number in range(file.num_record_batches))
    return file.schema, 0, batches


def _stream(rows: Any) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_batch(rows)
    return bytes(sink.getvalue().to_pybytes())


def _sound_rows(rows: Any) -> Iterator[Any]:
    """Rows that were checked to be what they say, with ``Unreadable`` for those of broken text.

    Raises:
        ArrowInvalid: They point beyond their data.
    """
    from pyarrow import ArrowInvalid

    try:
        rows.validate(full=True)
    except ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        if rows.num_rows > 1:
            for number in range(rows.num_rows):
                yield from _sound_rows(rows.slice(number, 1))
            return
        yield Unreadable("not UTF-8", f"it has a text that is not UTF-8 ({error})")
    else:
        yield rows


def _go_to(unpacked: BinaryIO, offset: int, download: Download | None) -> None:
    if download is None:
        unpacked.seek(offset)
        return
    while offset and (passed := unpacked.read(min(offset, storage.BLOCK_BYTES))):
        offset -= len(passed)


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


def _line(line: bytes) -> bytes | None:
    # Files that were joined have a byte order mark within.
    line = line.removeprefix(_BOM)
    return line if line.strip() else None


def _too_long(length: int, limit: int) -> Unreadable:
    return Unreadable(
        "too long", f"it has {length:,} bytes, more than --max-record-bytes {limit:,}"
    )


def _rest(error: Exception, stored: Any) -> Unreadable:
    """What stands for the rest of a file that a decoder gave up on; other errors are raised.

    Args:
        error: What was raised.
        stored: What was read; it knows if reading failed, whatever the decoder made of that.
    """
    failed = getattr(stored, "error", None)
    if failed is not None:
        raise failed
    # pyarrow raises errors without a number for what it cannot decode.
    is_decoders = isinstance(error, EOFError | ValueError) and not isinstance(error, InputError)
    is_arrows = type(error).__name__.startswith("Arrow") or (
        isinstance(error, OSError) and error.errno is None
    )
    if not is_decoders and not is_arrows:
        raise error
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    return Unreadable("unreadable file", f"from here on the file cannot be read ({reason})")
