# SPDX-License-Identifier: Apache-2.0
"""Writes and reads stored rows in Parquet, the format of Megatron-Bridge 0.4 and later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError
from megatron_packing.interchange.stored_rows import COLUMNS, StoredRow

# For each requested row Bridge reads its whole row group. At its start it reads the offsets of all
# groups, which the writer also holds in memory.
_MIN_GROUP_ROWS = 8
_MAX_GROUPS = 10_000
_BATCH_ROWS = 64


def write_parquet(
    path: Path,
    rows: Iterable[StoredRow],
    count: int,
    keys: Mapping[str, str] | None = None,
) -> None:
    """Write ``count`` rows, a few at a time, and key-value metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.int32(), pa.int8(), pa.int32())
    schema = pa.schema([(name, pa.list_(kind)) for name, kind in zip(COLUMNS, types, strict=True)])
    schema = schema.with_metadata(dict(keys or {}))
    rows = iter(rows)
    group_rows = max(_MIN_GROUP_ROWS, -(-count // _MAX_GROUPS))
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        while group := list(islice(rows, group_rows)):
            columns = [
                _list_array(pa, [getattr(row, name) for row in group], kind)
                for name, kind in zip(COLUMNS, types, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _list_array(pa: Any, values: list[Any], kind: Any) -> Any:
    offsets = np.cumsum([0, *(len(value) for value in values)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(values), kind))


def read_parquet(path: Path) -> Iterator[StoredRow]:
    """Read rows, a few at a time, as arrays of int64.

    Page checksums are verified if the file has them.

    Raises:
        InputError: The file is not a Parquet file of stored rows, or it is damaged.
    """
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        _check_columns(path, file.schema_arrow)
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(COLUMNS)):
            for row in range(len(batch)):
                arrays = [_integers(path, number, name, batch, row) for name in COLUMNS]
                yield StoredRow(*arrays)
                number += 1


def read_key(path: Path, key: str) -> bytes | None:
    """Return the value of a key in the file's metadata; None if the file does not have it.

    Raises:
        InputError: The file is not a Parquet file, or it is damaged.
    """
    import pyarrow.parquet as pq

    with _readable(path):
        keys: dict[bytes, bytes] = pq.read_metadata(path).metadata or {}
    return keys.get(key.encode())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert pyarrow's errors to InputError."""
    import pyarrow as pa

    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
    ) as error:  # column names that are not UTF-8
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path} cannot be read as packed Parquet ({reason}); give a file with the list "
            f"columns {', '.join(COLUMNS)}"
        ) from error


def _check_columns(path: Path, schema: Any) -> None:
    """Refuse a file unless each column exists once and holds lists of integers."""
    import pyarrow as pa

    missing = set(COLUMNS) - set(schema.names)
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(sorted(missing))}; packed rows have the columns "
            f"{', '.join(COLUMNS)}"
        )
    for name in COLUMNS:
        if schema.names.count(name) > 1:
            raise InputError(
                f"{path} has {schema.names.count(name)} columns named {name}; keep one"
            )
        kind = schema.field(name).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        is_list = is_list or pa.types.is_fixed_size_list(kind)
        if not is_list or not (
            pa.types.is_integer(kind.value_type) or pa.types.is_boolean(kind.value_type)
        ):
            raise InputError(
                f"{path} has a column {name} of type {kind}, not lists of integers; give a file of "
                f"packed sequences"
            )


def _integers(path: Path, number: int, name: str, batch: Any, row: int) -> NDArray[np.int64]:
    import pyarrow as pa

    values = batch.column(name)[row].values
    if values is None:
        raise InputError(f"{path} row {number} has null for {name}, not a list of integers")
    if values.null_count:
        raise InputError(f"{path} row {number} has a null in {name}; give only integers")
    integers: NDArray[np.int64] = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return integers
