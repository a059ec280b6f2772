# SPDX-License-Identifier: Apache-2.0
"""Stored rows in Parquet, as Megatron-Bridge 0.4 and later read them."""

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

# Bridge reads a whole group for each row of it that it is asked for, and at its start the places of
# all groups, which the writer holds in memory too.
_LEAST_ROWS_OF_GROUP = 8
_MOST_GROUPS = 10_000
_ROWS_OF_BATCH = 64


def write_parquet(
    path: Path,
    rows: Iterable[StoredRow],
    count: int,
    keys: Mapping[str, str] | None = None,
) -> None:
    """Write ``count`` rows as they come, a few at a time, and keys with their values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.int32(), pa.int8(), pa.int32())
    schema = pa.schema([(name, pa.list_(kind)) for name, kind in zip(COLUMNS, types, strict=True)])
    schema = schema.with_metadata(dict(keys or {}))
    rows = iter(rows)
    rows_of_group = max(_LEAST_ROWS_OF_GROUP, -(-count // _MOST_GROUPS))
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        while group := list(islice(rows, rows_of_group)):
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

    Checksums of pages are verified where the file has them.

    Raises:
        InputError: It is not a Parquet file of stored rows, or it is damaged.
    """
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        _check_columns(path, file.schema_arrow)
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS_OF_BATCH, columns=list(COLUMNS)):
            for row in range(len(batch)):
                arrays = [_integers(path, number, name, batch, row) for name in COLUMNS]
                yield StoredRow(*arrays)
                number += 1


def read_key(path: Path, key: str) -> bytes | None:
    """The value of a key that the file has beside its rows; None where it has none.

    Raises:
        InputError: It is not a Parquet file, or it is damaged.
    """
    import pyarrow.parquet as pq

    with _readable(path):
        keys: dict[bytes, bytes] = pq.read_metadata(path).metadata or {}
    return keys.get(key.encode())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Give what pyarrow raises as one sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # names that are not UTF-8
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path} cannot be read as packed Parquet ({reason}); give a file of lists of integers "
            f"named {', '.join(COLUMNS)}"
        ) from error


def _check_columns(path: Path, schema: Any) -> None:
    """Refuse a file without one list of integers for each column that is read."""
    import pyarrow as pa

    missing = set(COLUMNS) - set(schema.names)
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(sorted(missing))}; packed rows have "
            f"{', '.join(COLUMNS)}"
        )
    for name in COLUMNS:
        if schema.names.count(name) > 1:
            raise InputError(f"{path} has {schema.names.count(name)} columns {name}; keep one")
        kind = schema.field(name).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        is_list = is_list or pa.types.is_fixed_size_list(kind)
        if not is_list or not (
            pa.types.is_integer(kind.value_type) or pa.types.is_boolean(kind.value_type)
        ):
            raise InputError(
                f"{path} has a column {name} of {kind}, not of lists of integers; give a file of "
                f"packed sequences"
            )


def _integers(path: Path, number: int, name: str, batch: Any, row: int) -> NDArray[np.int64]:
    import pyarrow as pa

    values = batch.column(name)[row].values
    if values is None:
        raise InputError(f"{path} row {number} has null for {name}, not a list of integers")
    if values.null_count:
        raise InputError(f"{path} row {number} has a null in {name}; give integers alone")
    integers: NDArray[np.int64] = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return integers
