# SPDX-License-Identifier: Apache-2.0
"""Packed files of all kinds become the content that another reader finds, or one sentence.

MEGATRON_PACKING_FUZZ_CASES=20000 for a longer run of each test.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.errors import InputError
from megatron_packing.interchange.import_packed import import_packed
from tests.fuzzing import damage

CASES = int(os.environ.get("MEGATRON_PACKING_FUZZ_CASES", "150"))
COLUMNS = ("input_ids", "loss_mask", "seq_start_id")


def good_row(chance: random.Random) -> dict:
    lengths = [chance.randint(1, 6) for _ in range(chance.randint(1, 4))]
    total = sum(lengths)
    return {
        "input_ids": [chance.choice([0, 7, 65_535, 2**31 - 1]) for _ in range(total)],
        "loss_mask": [chance.randint(0, 1) for _ in range(total)],
        "seq_start_id": [sum(lengths[:number]) for number in range(len(lengths))],
    }


STRANGE = (None, -1, 2, 2**31, 2**63 - 1, 0.5, float("nan"), float("inf"), "1", b"1", [1], [], {})


def change(row: dict, chance: random.Random) -> dict:
    """A row with one thing changed, which may leave it good."""
    row = {name: list(values) for name, values in row.items()}
    name = chance.choice(COLUMNS)
    kind = chance.randrange(7)
    if kind == 0 and row[name]:
        row[name][chance.randrange(len(row[name]))] = chance.choice(STRANGE)
    elif kind == 1:
        row[name] = chance.choice(STRANGE)
    elif kind == 2 and row[name]:
        row[name].pop()
    elif kind == 3:
        row[name].append(chance.choice([0, 1, 5, -3]))
    elif kind == 4:
        chance.shuffle(row[name])
    elif kind == 5:
        del row[name]
    else:
        row[name] = [float(value) for value in row[name]]
    return row


def documents_of(rows: list) -> list[tuple[list[int], list[int]]] | None:
    """What rows mean, by the formats' words; None where they mean nothing."""
    documents = []
    for row in rows:
        if not isinstance(row, dict) or not set(COLUMNS) <= row.keys():
            return None
        for name in COLUMNS:
            values = row[name]
            if isinstance(values, np.ndarray):
                if values.ndim != 1:
                    return None
                values = values.tolist()
            numbers = (bool, int, float, np.bool_, np.integer, np.floating)
            if not isinstance(values, list) or not all(isinstance(x, numbers) for x in values):
                return None
            if not all(np.isfinite(float(x)) and int(x) == x for x in values):
                return None
        ids, mask, starts = ([int(x) for x in row[name]] for name in COLUMNS)
        if not ids or len(mask) != len(ids) or not starts or starts[0] != 0:
            return None
        if any(b <= a for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)):
            return None
        if not all(0 <= token < 2**31 for token in ids) or not set(mask) <= {0, 1}:
            return None
        for first, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            documents.append((ids[first:stop], [0, *mask[first : stop - 1]]))
    return documents or None


def imported(file: Path) -> list[tuple[list[int], list[int]]] | None:
    """What the import makes of a file; None for one sentence. Nothing may be left behind."""
    prefix = file.with_name("corpus")
    refusal = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            import_packed([file], prefix)
    except InputError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        assert str(file) in refusal
        assert [path.name for path in file.parent.iterdir()] == [file.name]
        return None
    corpus = Corpus(prefix)
    found = [(corpus.tokens(i).tolist(), corpus.loss_mask(i).tolist()) for i in range(len(corpus))]
    del corpus
    for path in file.parent.glob("corpus*"):
        path.unlink()
    return found


def test_rows_of_any_kind_in_npy_files(tmp_path):
    chance = random.Random(1)
    accepted = 0
    file = tmp_path / "packed.npy"
    for _ in range(CASES):
        rows = [good_row(chance) for _ in range(chance.randint(1, 3))]
        if chance.random() < 0.8:
            at = chance.randrange(len(rows))
            rows[at] = change(rows[at], chance)
        if chance.random() < 0.2:
            rows[-1] = {
                name: np.array(values)
                if isinstance(values, list) and all(type(x) in (int, float) for x in values)
                else values
                for name, values in rows[-1].items()
            }
        array = np.empty(len(rows), object)
        array[:] = rows
        np.save(file, array, allow_pickle=True)
        expected = documents_of(rows)
        assert imported(file) == expected, rows
        accepted += expected is not None
    assert CASES * 0.2 < accepted < CASES * 0.8


def test_rows_of_any_kind_in_parquet_files(tmp_path):
    chance = random.Random(2)
    accepted = 0
    file = tmp_path / "packed.parquet"
    kinds = [pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64(), pa.bool_()]
    lists = [pa.list_, pa.large_list]
    for number in range(CASES):
        rows = [good_row(chance) for _ in range(chance.randint(1, 3))]
        if chance.random() < 0.8:
            at = chance.randrange(len(rows))
            rows[at] = change(rows[at], chance)
        columns = {}
        for name in COLUMNS:
            if any(name not in row for row in rows):
                continue
            values = [row[name] for row in rows]
            try:
                columns[name] = pa.array(values, chance.choice(lists)(chance.choice(kinds)))
            except (pa.ArrowException, OverflowError, TypeError, ValueError):
                try:
                    columns[name] = pa.array(values)
                except (pa.ArrowException, OverflowError):
                    columns[name] = pa.array([f"{value}" for value in values])
        if not columns:
            continue
        table = pa.table(columns)
        try:
            pq.write_table(table, file, row_group_size=1 + number % 3)
        except pa.ArrowNotImplementedError:  # objects without fields
            continue
        is_float = any(
            pa.types.is_nested(column.type) and pa.types.is_floating(column.type.value_type)
            for column in table.columns
            if not pa.types.is_struct(column.type)
        )
        expected = None if is_float else documents_of(pq.read_table(file).to_pylist())
        assert imported(file) == expected, rows
        accepted += expected is not None
    assert CASES * 0.1 < accepted < CASES * 0.8


def as_numpy_reads(file: Path) -> list[tuple[list[int], list[int]]] | None:
    """What numpy finds in a file, in a process of its own, as it may crash on damaged ones."""
    program = (
        "import pickle, sys, numpy as np\n"
        "pickle.dump(np.load(sys.argv[1], allow_pickle=True).tolist(), sys.stdout.buffer)"
    )
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, file],
        capture_output=True,
        timeout=TIME_LIMIT,
        check=True,
    )
    return documents_of(pickle.loads(process.stdout))


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_files_with_changed_bytes(tmp_path, suffix):
    """Where it is accepted, the libraries of the formats read the same."""
    chance = random.Random(3)
    file = tmp_path / f"packed.{suffix}"
    rows = [good_row(chance) for _ in range(4)]
    if suffix == "npy":
        np.save(file, rows, allow_pickle=True)
    else:
        pq.write_table(pa.Table.from_pylist(rows), file, write_page_checksum=True)
    original = file.read_bytes()
    accepted = 0
    for _ in range(CASES):
        file.write_bytes(damage(original, chance))
        found = imported(file)
        accepted += found is not None
        if found is not None and found != documents_of(rows):
            assert suffix == "npy", "pages of Parquet have checksums"
            assert found == as_numpy_reads(file)
    assert accepted < CASES * 0.9
