# SPDX-License-Identifier: Apache-2.0
"""Converts rows of Arrow tables to the values that JSON would have.

pyarrow's own conversion turns maps into lists of pairs, writes float32 with the digits of float64,
and fails for a whole table if one text is not UTF-8 or one time is out of Python's range.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError


def _unusable(what: str) -> Any:
    """Make a value that takes the place of one that cannot be read.

    It is an error only if it is used. The name of its type appears in messages about a wrong type;
    converting it to text raises RecordError.
    """

    def refuse(_: object) -> str:
        raise RecordError("unreadable value", f"it has a {what}")

    return type(what, (), {"__str__": refuse, "__repr__": refuse})()


_NOT_UTF8 = _unusable("text that is not UTF-8")
_NOT_JSON = _unusable("text that should be JSON and is not")
_SAME_KEYS = _unusable("map that has a key twice")


def refuse_same_names(name: str, schema: Any) -> None:
    """Refuse a table in which two columns, or two fields of a column, have the same name.

    Args:
        name: Names the file in the error.
        schema: An Arrow schema.

    Raises:
        InputError: Two have the same name; the message names it.
    """
    twice = _same_names(list(schema))
    if twice:
        raise InputError(
            f"the input {name} has two columns or fields named {twice!r}; rename or drop one "
            f"of them"
        )


def _same_names(fields: Sequence[Any]) -> str:
    names = [field.name for field in fields]
    twice = next((name for name in names if names.count(name) > 1), "")
    for field in fields:
        inner = field.type
        if not twice and inner.num_fields:
            is_map = str(inner).startswith("map<")
            children = [inner.key_field, inner.item_field] if is_map else _children(inner)
            twice = _same_names(children)
    return twice


def _children(kind: Any) -> list[Any]:
    return [kind.field(number) for number in range(kind.num_fields)]


def table_rows(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table or a record batch, without nulls.

    Maps become objects, ``arrow.json`` is parsed, float32 becomes the shortest number that rounds
    to it, and dates and times become texts. A text that is not UTF-8 is refused only if it is used.
    """
    columns: list[tuple[str, list[Any]]] = []
    for field, column in zip(table.schema, table.columns, strict=True):
        chunks = getattr(column, "chunks", None)
        values: list[Any] = []
        for chunk in [column] if chunks is None else chunks:
            values += _values(chunk, field)
        columns.append((field.name, values))
    return _objects(table.num_rows, columns)


def _objects(count: int, columns: list[tuple[str, list[Any]]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, values in columns:
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[name] = value
    return rows


def _values(array: Any, field: Any) -> list[Any]:
    import pyarrow
    from pyarrow import types

    kind = array.type
    if isinstance(kind, pyarrow.BaseExtensionType):
        is_json = kind.extension_name == "arrow.json"
        values = _values(array.storage, field)
        return [_json(value) for value in values] if is_json else values
    if (field.metadata or {}).get(
        b"ARROW:extension:name"
    ) == b"arrow.json":  # from an older pyarrow
        return [_json(value) for value in _plain(array)]
    if types.is_struct(kind):
        columns = [
            (child.name, _values(array.field(number), child))
            for number, child in enumerate(_children(kind))
        ]
        objects = _objects(len(array), columns)
        if not array.null_count:
            return objects
        return [
            one if valid else None
            for one, valid in zip(objects, array.is_valid().to_pylist(), strict=True)
        ]
    if types.is_map(kind):
        keys = _values(array.keys, kind.key_field)
        items = _values(array.items, kind.item_field)
        return [None if span is None else _map(keys, items, span) for span in _spans(array)]
    if types.is_fixed_size_list(kind):
        inner = _values(array.values, kind.value_field)
        size = kind.list_size
        starts = range(array.offset * size, (array.offset + len(array)) * size, size)
        valid = array.is_valid().to_pylist()
        return [
            inner[start : start + size] if one else None
            for start, one in zip(starts, valid, strict=True)
        ]
    if types.is_list(kind) or types.is_large_list(kind):
        inner = _values(array.values, kind.value_field)
        return [None if span is None else inner[span[0] : span[1]] for span in _spans(array)]
    if types.is_dictionary(kind):
        return _values(array.dictionary_decode(), field)
    return _plain(array)


def _spans(array: Any) -> list[tuple[int, int] | None]:
    """Return the start and end of each list's items; None for a null."""
    offsets = array.offsets.to_pylist()
    valid = array.is_valid().to_pylist()
    return [
        (offsets[number], offsets[number + 1]) if one else None for number, one in enumerate(valid)
    ]


def _map(keys: list[Any], items: list[Any], span: tuple[int, int]) -> Any:
    names = [key if isinstance(key, str) else str(key) for key in keys[slice(*span)]]
    if len(set(names)) < len(names):
        return _SAME_KEYS
    return dict(zip(names, items[slice(*span)], strict=True))


def _json(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _plain(array: Any) -> list[Any]:
    """Return numbers, booleans and texts; convert other types to text."""
    import numpy as np
    from pyarrow import ArrowException, types

    kind = array.type
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_null(kind):
        return list(array.to_pylist())
    if types.is_float64(kind):
        return list(array.to_pylist())
    if types.is_floating(kind):
        narrow = np.float32 if types.is_float32(kind) else np.float16
        return [None if one is None else float(str(narrow(one))) for one in array.to_pylist()]
    if types.is_decimal(kind):
        exact = array.to_pylist()
        return [
            None if one is None else int(one) if one == int(one) else float(one) for one in exact
        ]
    if types.is_string(kind) or types.is_large_string(kind) or "string" in str(kind):
        try:
            return list(array.to_pylist())
        except UnicodeDecodeError:
            return [_text(one) for one in array]
    if "binary" in str(kind):
        return [_bytes(one) for one in array.to_pylist()]
    for attempt in (array, _without_zone(array)):
        try:
            return list(attempt.cast("string").to_pylist())
        except (ArrowException, ValueError, OverflowError, OSError):
            continue
    stand_in = _unusable(f"value of type {kind}")
    return [stand_in if one else None for one in array.is_valid().to_pylist()]


def _text(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8


def _bytes(value: bytes | None) -> Any:
    """Decode bytes, because older writers do not mark which columns are text."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return _NOT_UTF8


def _without_zone(array: Any) -> Any:
    from pyarrow import timestamp, types

    is_zoned = types.is_timestamp(array.type) and array.type.tz is not None
    return array.cast(timestamp(array.type.unit)) if is_zoned else array
