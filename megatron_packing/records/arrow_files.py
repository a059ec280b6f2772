# SPDX-License-Identifier: Apache-2.0
"""Opens Parquet and Arrow files, checks their rows, and writes rows as Arrow streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megatron_packing.records.batches import Unreadable

ROWS_AT_A_TIME = 64


def open_parquet(stored: Any) -> tuple[Any, int, Iterator[Any]]:
    """Return a table's schema, its number of rows (0 if unknown), and its record batches."""
    import pyarrow.parquet

    # With a buffer, a row group is not read as a whole.
    table = pyarrow.parquet.ParquetFile(
        stored, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
    )
    rows = table.iter_batches(ROWS_AT_A_TIME, use_threads=False)
    return table.schema_arrow, table.metadata.num_rows, rows


def open_arrow(stored: Any) -> tuple[Any, int, Iterator[Any]]:
    """Open Arrow's file format (Feather too) or stream format, as ``open_parquet`` does."""
    import pyarrow.ipc

    is_file = stored.read(6) == b"ARROW1"
    stored.seek(0)
    if not is_file:
        stream = pyarrow.ipc.open_stream(stored)
        return stream.schema, 0, iter(stream)
    file = pyarrow.ipc.open_file(stored)
    batches = (file.get_batch(number) for number in range(file.num_record_batches))
    return file.schema, 0, batches


def write_stream(rows: Any) -> bytes:
    """Return a record batch as an Arrow stream, without other rows that share its buffers."""
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_batch(rows)
    return bytes(sink.getvalue().to_pybytes())


def sound_rows(rows: Any) -> Iterator[Any]:
    """Yield all sound rows up to the first damaged one, split where one is not sound.

    ``Unreadable`` takes the place of a row whose text is not UTF-8.

    Raises:
        ArrowInvalid: A row is damaged otherwise.
    """
    from pyarrow import ArrowInvalid

    try:
        rows.validate(full=True)
    except ArrowInvalid as error:
        if rows.num_rows > 1:
            middle = rows.num_rows // 2
            yield from sound_rows(rows.slice(0, middle))
            yield from sound_rows(rows.slice(middle))
            return
        if "UTF8" not in str(error):
            raise
        yield Unreadable("not UTF-8", f"it has a text that is not UTF-8 ({error})")
    else:
        yield rows
