"""Stored rows in Parquet, as Megatron-Bridge 0.4 and later read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from megatron_packing.errors import InputError
from megatron_packing.nemo.stored_rows import COLUMNS, StoredRow

# Bridge reads a whole group for each row of it that it is asked for, and at its start the places of
# all groups, which the writer holds in memory too.
_LEAST_ROWS_OF_GROUP = 8
_MOST_GROUPS = 10_000
_ROWS_OF_BATCH = 64


def write_parquet(path: Path, rows: Iterable[StoredRow], count: int) -> None:
    """Write ``count`` rows as they come, a few at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.int32(), pa.int8(), pa.int32())
    schema = pa.schema([(name, pa.list_(kind)) for name, kind in zip(COLUMNS, types, strict=True)])
    rows = iter(rows)
    rows_of_group = max(_LEAST_ROWS_OF_GROUP, -(-count // _MOST_GROUPS))
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=False, write_statistics=False
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
    """Read rows, a few at a time.

    Raises:
        InputError: It is not a Parquet file of stored rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        missing = set(COLUMNS) - set(file.schema_arrow.names)
        if missing:
            raise InputError(
                f"{path} has no column {', '.join(sorted(missing))}; packed rows have "
                f"{', '.join(COLUMNS)}"
            )
        for batch in file.iter_batches(batch_size=_ROWS_OF_BATCH, columns=list(COLUMNS)):
            for row in range(len(batch)):
                yield StoredRow(
                    *(
                        batch.column(name)[row].values.to_numpy(zero_copy_only=False)
                        for name in COLUMNS
                    )
                )
    except (pa.ArrowException, AttributeError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as packed Parquet ({error}); give a file of lists of integers "
            f"named {', '.join(COLUMNS)}"
        ) from error
