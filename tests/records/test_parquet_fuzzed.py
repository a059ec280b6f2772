# SPDX-License-Identifier: Apache-2.0
"""Damaged Parquet files give the rows that they held, or a reject; never other rows.

MEGATRON_PACKING_FUZZ_CASES=20000 for a longer run.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_packing.records.batches import Position
from megatron_packing.records.inputs import find_inputs
from megatron_packing.records.readers import read_batches
from megatron_packing.records.record import RecordError
from tests.fuzzing import damage, read_unless_refused

CASES = int(os.environ.get("MEGATRON_PACKING_FUZZ_CASES", "400"))
ROWS = [{"prompt": f"What is {n} and {n}?", "completion": f"{n} \u4f60\u597d"} for n in range(60)]


def read(file: Path) -> tuple[list, list[str]]:
    """The rows of a file, and why some could not be read."""
    rows, rejects = [], []
    for batch in read_batches(find_inputs([str(file)]), Position(), 1 << 20):
        for _, record in batch.records():
            try:
                rows.append(record())
            except RecordError as error:
                rejects.append(error.reason)
    return rows, rejects


def _text(value: object) -> object:
    """Bytes that are UTF-8 are read as text."""
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_damaged_pages_give_rows_that_were_there_or_rejects(tmp_path, compression):
    file = tmp_path / "rows.parquet"
    table = pa.Table.from_pylist(ROWS)
    options = {"row_group_size": 20, "compression": compression, "write_page_checksum": True}
    pq.write_table(table, file, **options)
    original = file.read_bytes()
    footer = len(original) - 8 - int.from_bytes(original[-8:-4], "little")
    chance, seen = random.Random(4), Counter()
    for _ in range(CASES):
        file.write_bytes(damage(original, chance, footer))
        found = read_unless_refused(read, file)
        if found is None:
            seen["refused"] += 1
            continue
        rows, rejects = found
        assert rows == ROWS[: len(rows)]
        assert bool(rejects) == (len(rows) < len(ROWS)), rejects
        seen["rejects" if rejects else "the same"] += 1
    assert seen["rejects"] > CASES // 2


def test_damaged_footers_give_what_pyarrow_reads_or_rejects(tmp_path):
    """A footer has no checksum: a column may have another name, but no row is lost in silence."""
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=20, write_page_checksum=True)
    original = file.read_bytes()
    footer = len(original) - 8 - int.from_bytes(original[-8:-4], "little")
    chance, seen = random.Random(5), Counter()
    for _ in range(CASES):
        changed = damage(original[footer:-8], chance, len(original) - 8 - footer)
        size = len(changed).to_bytes(4, "little")
        file.write_bytes(original[:footer] + changed + size + b"PAR1")
        found = read_unless_refused(read, file)
        if found is None:
            seen["refused"] += 1
            continue
        rows, rejects = found
        if rejects:
            seen["rejects"] += 1
            continue
        whole = pq.ParquetFile(file, page_checksum_verification=True).read().to_pylist()
        assert rows == [{name: _text(value) for name, value in row.items()} for row in whole]
        seen["as pyarrow"] += 1
    assert seen["as pyarrow"] > CASES // 50
    assert seen["rejects"] + seen["refused"] > CASES // 4
