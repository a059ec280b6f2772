# SPDX-License-Identifier: Apache-2.0
"""Damaged Arrow files give the rows before the damage, and never end the process."""

from __future__ import annotations

import struct

import pytest

pytest.importorskip("pyarrow")

import pyarrow
import pyarrow.ipc

from megatron_packing.records.batches import Position, Unreadable
from megatron_packing.records.inputs import find_inputs
from megatron_packing.records.readers import read_batches
from megatron_packing.records.record import RecordError


def read(path):
    """All batches of a file, and its records; ``None`` for those that are refused."""
    batches = list(read_batches(find_inputs([str(path)]), Position(), 1 << 20))
    records = []
    for batch in batches:
        for _, record in batch.records():
            try:
                records.append(record())
            except RecordError as error:
                records.append(error)
    return batches, records


@pytest.fixture
def damaged(tmp_path):
    def write(table, before, after):
        path = tmp_path / "table.arrow"
        with pyarrow.ipc.new_file(path, table.schema) as file:
            file.write(table)
        content = path.read_bytes()
        assert content.count(before) == 1
        path.write_bytes(content.replace(before, after))
        return path

    return write


def test_an_offset_that_points_far_away_costs_the_rows_from_there_on(damaged):
    turns = [["Why?", "So."], ["Who?", "We."], ["a", "b"]]
    table = pyarrow.table({"turns": turns})
    path = damaged(table, struct.pack("<4i", 0, 2, 4, 6), struct.pack("<4i", 0, 2, 4, 1 << 30))
    _, records = read(path)
    assert records[:2] == [{"turns": turns[0]}, {"turns": turns[1]}]
    assert len(records) == 3
    assert "the rest of the file cannot be read" in str(records[2])


def test_one_text_that_is_not_utf8_costs_one_row_and_few_batches(damaged):
    table = pyarrow.table({"text": [f"text {number:03}" for number in range(1000)]})
    batches, records = read(damaged(table, b"text 345", b"text \xff45"))
    assert [one for one in records if not isinstance(one, RecordError)] == [
        row for row in table.to_pylist() if row["text"] != "text 345"
    ]
    assert records[345].kind == "not UTF-8"
    assert sum(isinstance(batch.payload, list) for batch in batches) == 1
    assert len(batches) < 25
    assert isinstance(
        next(b.payload for b in batches if isinstance(b.payload, list))[0], Unreadable
    )
