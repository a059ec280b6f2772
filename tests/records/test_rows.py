# SPDX-License-Identifier: Apache-2.0
"""Rows of tables are what the same records would be as JSON."""

from __future__ import annotations

import datetime
import decimal
import json

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing.errors import InputError
from megatron_packing.records.batches import Position
from megatron_packing.records.inputs import find_inputs
from megatron_packing.records.readers import read_batches
from megatron_packing.records.record import RecordError, type_name
from megatron_packing.records.rows import table_rows

STRINGS = pa.map_(pa.string(), pa.string())
CALL = {"city": "Paris", "unit": "C"}


def rows_of(array, name="a"):
    return table_rows(pa.table({name: array}))


def column(array):
    return [row.get("a") for row in rows_of(array)]


def test_maps_are_objects():
    array = pa.array([list(CALL.items()), None, [], [("x", None)]], STRINGS)
    assert column(array) == [CALL, None, {}, {"x": None}]
    assert column(array.slice(1)) == [None, {}, {"x": None}]
    nested = pa.array(
        [[[("p", {"type": "s"})]]], pa.list_(pa.map_(pa.string(), pa.struct({"type": "str"})))
    )
    assert column(nested) == [[{"p": {"type": "s"}}]]
    numbers = pa.array([[(1, "a")]], pa.map_(pa.int64(), pa.string()))
    assert column(numbers) == [{"1": "a"}]


def test_a_key_twice_is_refused_where_it_is_used():
    (value,) = column(pa.array([[("x", "a"), ("x", "b")]], STRINGS))
    assert type_name(value) == "a map that has a key twice"
    with pytest.raises(RecordError, match="it has a map that has a key twice"):
        str(value)
    with pytest.raises(TypeError):
        json.dumps(value)


def test_nulls_of_other_rows_fields_are_absent_and_those_of_maps_and_json_stay():
    rows = [{"a": {"x": 1}, "b": None}, {"a": {"x": None, "y": "z"}, "b": [None, {"c": None}]}]
    assert table_rows(pa.Table.from_pylist(rows)) == [
        {"a": {"x": 1}},
        {"a": {"y": "z"}, "b": [None, {}]},
    ]


def test_json_columns_are_what_their_texts_say():
    texts = ['{"a": [1, null]}', None, "3", "{broken"]
    kind = pa.json_() if hasattr(pa, "json_") else None
    arrays = [pa.array(texts)] if kind is None else [pa.array(texts, kind)]
    field = pa.field("a", pa.string(), metadata={"ARROW:extension:name": "arrow.json"})
    tables = [pa.table({"a": array}) for array in arrays if kind is not None]
    tables.append(pa.table([pa.array(texts)], schema=pa.schema([field])))
    for table in tables:
        *values, broken = [row.get("a") for row in table_rows(table)]
        assert values == [{"a": [1, None]}, None, 3]
        assert type_name(broken) == "a text that should be JSON and is not"


def test_tool_calls_of_datasets_json_type_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Json"):
        pytest.skip("this datasets has no Json")
    records = [
        {"messages": [{"role": "assistant", "tool_calls": [{"f": {"arguments": arguments}}]}]}
        for arguments in ({"city": "Paris"}, {"n": 3, "u": None})
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    made = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    made.to_parquet(str(tmp_path / "a.parquet"))
    made.save_to_disk(str(tmp_path / "saved"))
    for source in ("a.parquet", "saved"):
        found = []
        for batch in read_batches(find_inputs([str(tmp_path / source)]), Position(), 1 << 20):
            found += [record() for _, record in batch.records()]
        assert found == records


@given(st.lists(st.floats(width=32) | st.none()))
def test_float32_has_its_own_digits(values):
    found = column(pa.array(values, pa.float32()))
    for before, now in zip(values, found, strict=True):
        if before is None:
            assert now is None
            continue
        assert str(np.float32(now)) == str(np.float32(before))
        assert json.dumps(now) == json.dumps(float(str(np.float32(before))))
    assert json.dumps(column(pa.array([0.1, 3.3], pa.float32()))) == "[0.1, 3.3]"
    assert json.dumps(column(pa.array([0.1], pa.float16()))) == "[0.1]"


@given(
    st.lists(
        st.recursive(
            st.text(max_size=3) | st.integers(-(2**63), 2**63 - 1),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        ).filter(lambda value: isinstance(value, list))
    )
)
def test_lists_are_pyarrows(values):
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return  # no table holds such a mixture
    for kind in (None, "large"):
        if kind and not pa.types.is_null(array.type):
            array = array.cast(pa.large_list(array.type.value_field))
        assert column(array) == array.to_pylist()
        assert column(array.slice(1)) == array.slice(1).to_pylist()


def test_other_types_of_lists_and_texts():
    words = pa.array(["a", None, "b", "a"])
    assert column(words.dictionary_encode()) == ["a", None, "b", "a"]
    assert column(words.cast(pa.large_string())) == ["a", None, "b", "a"]
    pairs = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2))
    assert column(pairs) == [[1, 2], None, [3, 4]]
    assert column(pairs.slice(2)) == [[3, 4]]
    structs = pa.array([{"x": 1}, None, {"x": None}], pa.struct({"x": pa.int64()}))
    assert column(structs) == [{"x": 1}, None, {}]
    assert column(structs.slice(1)) == [None, {}]
    prices = pa.array([decimal.Decimal("12.50"), decimal.Decimal("3.00"), None])
    assert column(prices) == [12.5, 3, None]
    assert column(pa.array([b"caf\xc3\xa9", None])) == ["caf\u00e9", None]


def test_times_are_texts_even_beyond_pythons():
    day = pa.array([datetime.date(2026, 1, 31), None])
    assert column(day) == ["2026-01-31", None]
    far = pa.array([2**62, 0], pa.timestamp("s"))
    assert all(isinstance(value, str) for value in column(far))
    unknown_zone = pa.array([0], pa.timestamp("us", tz="Nowhere/Land"))
    assert all(isinstance(value, str) for value in column(unknown_zone))


def broken_text():
    return pa.array([b"good", b"caf\xe9"], pa.binary()).view(pa.string())


def test_text_that_is_not_utf8_costs_only_those_who_use_it(tmp_path):
    table = pa.table({"text": ["a", "b"], "unused": broken_text()})
    assert [row["text"] for row in table_rows(table)] == ["a", "b"]
    assert table_rows(table)[0]["unused"] == "good"
    value = table_rows(table)[1]["unused"]
    assert type_name(value) == "a text that is not UTF-8"
    with pytest.raises(RecordError):
        f"{value}"
    path = tmp_path / "bad.parquet"
    pyarrow.parquet.write_table(table, path)
    rows = []
    for batch in read_batches(find_inputs([str(path)]), Position(), 1 << 20):
        rows += [record() for _, record in batch.records()]
    assert [row["text"] for row in rows] == ["a", "b"]


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    inner = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    for number, one in enumerate((table, pa.table({"text": inner}))):
        path = tmp_path / f"{number}.arrow"
        with pa.ipc.new_file(str(path), one.schema) as writer:
            writer.write_table(one)
        name = "text" if number == 0 else "x"
        with pytest.raises(InputError, match=f"two columns or fields named '{name}'"):
            list(read_batches(find_inputs([str(path)]), Position(), 1 << 20))
    path = tmp_path / "twice.parquet"
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(InputError, match="two columns or fields named 'text'"):
        list(read_batches(find_inputs([str(path)]), Position(), 1 << 20))
