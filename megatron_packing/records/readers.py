# SPDX-License-Identifier: Apache-2.0
"""Reads batches of records from inputs, in order, from any position, in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from megatron_packing.errors import InputError, missing
from megatron_packing.records import storage
from megatron_packing.records.arrow_files import (
    ROWS_AT_A_TIME,
    open_arrow,
    open_parquet,
    sound_rows,
    write_stream,
)
from megatron_packing.records.batches import (
    UNREADABLE_FILE,
    Position,
    RecordBatch,
    Unreadable,
)
from megatron_packing.records.downloads import (
    Download,
    Downloads,
    copy_download,
    copy_remote_folder,
)
from megatron_packing.records.input_file import InputFile
from megatron_packing.records.json_array import read_elements, read_objects
from megatron_packing.records.rows import refuse_same_names

_BATCH_BYTES = 1 << 18
_BOM = b"\xef\xbb\xbf"

OnDigest = Callable[[int, str, int], None]
"""Called with the number of a remote input that was read completely, its SHA-256 and its size."""


def read_batches(
    inputs: Sequence[InputFile],
    start: Position,
    max_record_bytes: int,
    spool: Path | None = None,
    on_digest: OnDigest | None = None,
) -> Iterator[RecordBatch]:
    """Yield all records from a position to the end.

    If a file cannot be decoded further, for example a truncated compressed file, one ``Unreadable``
    takes the place of its rest. Each remote file is downloaded once, from its beginning.

    Args:
        inputs: The files, in order.
        start: Where to start; ``Position()`` is the beginning.
        max_record_bytes: A longer record becomes ``Unreadable`` and is not held in memory.
        spool: A folder for copies of remote tables; None uses the system's temporary folder.
        on_digest: Called with the digest of each remote input.

    Raises:
        StorageError: A file could not be read, although its content may be fine.
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
        """Read all records of a file."""
        if self._file.format in ("parquet", "arrow"):
            return self._table(download)
        return self._texts(download, max_record_bytes)

    def _texts(self, download: Download | None, limit: int) -> Iterator[RecordBatch]:
        """Read lines, the elements of an array, or consecutive objects."""
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
                open_table = open_parquet if self._file.format == "parquet" else open_arrow
                schema, total, rows = open_table(table)
                refuse_same_names(self._file.name, schema)
                # Decoding checks Parquet. Arrow is used as it is stored, so it must be checked.
                is_checked = self._file.format == "parquet"
                yield from self._rows(rows, total, self._next, is_checked)
            except Exception as error:
                rest = _rest(error, stored)
                yield self._batch([rest], 1, 0, self._file.size, at_end=True)

    @contextmanager
    def _local(self, download: Download | None) -> Iterator[tuple[Any, Any]]:
        """Yield a seekable file, and the object whose ``error`` says if reading it failed."""
        if download is None:
            with self._file.open() as both:
                yield both
        else:
            with copy_download(download, self._spool) as copy:
                yield copy, download

    def dataset(self, on_digest: OnDigest | None) -> Iterator[RecordBatch]:
        """Read the rows of a folder that ``datasets`` saved."""
        try:
            import datasets
        except ImportError as error:
            raise missing(f"the input {self._file.name}", "datasets", "datasets") from error
        with ExitStack() as stack:
            folder = self._file.name
            if not self._file.is_local:
                folder = stack.enter_context(tempfile.TemporaryDirectory(dir=self._spool))
                digest, size = copy_remote_folder(self._file.name, Path(folder))
                if on_digest is not None:
                    on_digest(self._number, digest, size)
            try:
                saved = datasets.load_from_disk(folder).with_format("arrow")
                if self._next == len(saved):
                    return
                tables = saved.skip(self._next).iter(ROWS_AT_A_TIME)
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
        """Make batches of rows, each an Arrow stream."""
        for rows in batches:
            if skip >= rows.num_rows:
                skip -= rows.num_rows
                continue
            rows = rows.slice(skip)
            skip = 0
            # Damaged rows must not be measured: their offsets may point anywhere.
            for sound in [rows] if is_checked else sound_rows(rows):
                for part in [sound] if isinstance(sound, Unreadable) else _parts(sound):
                    payload: Any = [part] if isinstance(part, Unreadable) else write_stream(part)
                    count = 1 if isinstance(part, Unreadable) else part.num_rows
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
        """Make a batch; with ``at_end`` the next one starts in the next file."""
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


def _parts(rows: Any) -> Iterator[Any]:
    """Split sound rows into parts of about ``_BATCH_BYTES``."""
    step = max(1, rows.num_rows * _BATCH_BYTES // max(rows.nbytes, 1))
    for start in range(0, rows.num_rows, step):
        yield rows.slice(start, step)


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
    # A file that was concatenated from others may have byte order marks inside.
    line = line.removeprefix(_BOM)
    return line if line.strip() else None


def _too_long(length: int, limit: int) -> Unreadable:
    return Unreadable(
        "too long", f"it has {length:,} bytes, more than --max-record-bytes {limit:,}"
    )


def _rest(error: Exception, stored: Any) -> Unreadable:
    """Return what replaces the rest of a file that cannot be decoded; raise other errors.

    Args:
        error: What the decoder raised.
        stored: The stored bytes. Their ``error`` says if reading them failed.
    """
    failed = getattr(stored, "error", None)
    if failed is not None:
        raise failed
    # pyarrow raises OSError without an errno for content that it cannot decode.
    is_decoders = isinstance(error, EOFError | ValueError) and not isinstance(error, InputError)
    is_arrows = type(error).__name__.startswith("Arrow") or (
        isinstance(error, OSError) and error.errno is None
    )
    if not is_decoders and not is_arrows:
        raise error
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    return Unreadable(UNREADABLE_FILE, f"the rest of the file cannot be read ({reason})")
