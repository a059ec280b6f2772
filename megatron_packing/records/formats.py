# SPDX-License-Identifier: Apache-2.0
"""Finds the format of a file by its first bytes; its name does not matter."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Literal

from megatron_packing.errors import InputError
from megatron_packing.records.unpack import Compression, Unpacked

Format = Literal["lines", "array", "objects", "parquet", "arrow", "dataset"]

START_BYTES = 1 << 12
"""How many bytes are read first. They are usually enough to find the format."""
MORE_BYTES = 1 << 20
"""How many bytes are read if the first ones are not enough."""

_UTF8_BOM = b"\xef\xbb\xbf"
_SKIPPABLE = re.compile(
    rb"[\x50-\x5f]\x2a\x4d\x18"
)  # a zstd frame without content, as pzstd writes
_GIT_LFS = b"version https://git-lfs.github.com/spec/"
# Formats that are not supported: the first bytes, a description, and what to do.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"BZh", "is compressed with bzip2", "decompress it (bunzip2), or compress it with gzip"),
    (b"\xfd7zXZ\x00", "is compressed with xz", "decompress it (unxz), or compress it with gzip"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4", "decompress it, or compress it with gzip"),
    (
        b"\xff\x06\x00\x00sNaPpY",
        "is compressed with snappy",
        "decompress it, or compress it with gzip",
    ),
    (b"PK\x03\x04", "is a zip archive", "extract its files (unzip) and give those"),
    (b"PK\x05\x06", "is an empty zip archive", "give files of records"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "extract its files and give those"),
    (b"Rar!\x1a\x07", "is a RAR archive", "extract its files and give those"),
    (b"ORC", "is an ORC file", "convert it to Parquet"),
    (b"Obj\x01", "is an Avro file", "convert it to Parquet"),
    (b"FEA1", "is a Feather file of version 1", "write it as version 2, or as Parquet"),
    (b"PARE", "is an encrypted Parquet file", "decrypt it first"),
    (b"\x93NUMPY", "is a NumPy array", "give files of records"),
    (b"\x89HDF", "is an HDF5 file", "convert it to Parquet"),
    (b"SQLite format 3\x00", "is an SQLite database", "export its table to JSON Lines"),
    (b"%PDF", "is a PDF document", "give files of records"),
    (_GIT_LFS, "is a pointer of git-lfs, not the file itself", "fetch the file (git lfs pull)"),
)
_CSV_HEADER = re.compile(r'\s*"?[A-Za-z_][\w .-]*"?(?:\s*([,;\t])\s*"?[A-Za-z_][\w .-]*"?)+\s*')
# Fields that show that an object is a record, whatever the field that holds it is named.
_CONVERSATION_FIELDS = ("messages", "conversations", "instruction")
_WRAPPERS = ("data", "records", "rows", "examples", "items", "samples", "instances", "train")
_WRAPPED = re.compile(rf'\{{\s*"({"|".join(_WRAPPERS)})"\s*:\s*\[\s*\{{\s*"([^"\\]+)"\s*:')


def tell_format(
    name: str, start: bytes, more: Callable[[int], bytes], record_fields: Collection[str] = ()
) -> tuple[Format, Compression]:
    """Return the format of a file, and its compression.

    Args:
        name: Names the file in errors.
        start: Its first bytes, usually ``START_BYTES`` of them.
        more: Returns the given number of its first bytes.
        record_fields: Fields that records have, which tell a record from an object that wraps
            a list of records.

    Raises:
        InputError: The format is not supported; the message names it.
    """
    if start.startswith(b"PAR1"):
        return "parquet", ""
    if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow", ""
    compression: Compression = ""
    if start.startswith(b"\x1f\x8b"):
        compression = "gzip"
    elif start.startswith(b"\x28\xb5\x2f\xfd") or _SKIPPABLE.match(start):
        compression = "zstd"

    def text_start(size: int) -> bytes:
        stored = start if size <= len(start) else more(size)
        if not compression:
            return stored
        unpacked = _unpacked_start(stored, compression)
        if not unpacked and size < MORE_BYTES:  # the compressed block is larger
            return text_start(MORE_BYTES)
        return unpacked

    begins = text_start(len(start))
    if name.lower().endswith((".parquet", ".pq")) and not compression and b"\x00" in begins:
        raise InputError(
            f"the input {name} is not a Parquet file: its first bytes are not PAR1; it may be "
            f"damaged, so copy or write it again"
        )
    _refuse_other_files(name, begins)
    return _text_format(name, begins, text_start, record_fields), compression


def _unpacked_start(stored: bytes, compression: Compression) -> bytes:
    unpacked = Unpacked(io.BytesIO(stored), compression)
    parts: list[bytes] = []
    with suppress(
        EOFError, ValueError
    ):  # the text is truncated; errors are reported when the file is read
        while sum(map(len, parts)) < MORE_BYTES and (part := unpacked.read(1 << 16)):
            parts.append(part)
    return b"".join(parts)


def _refuse_other_files(name: str, start: bytes) -> None:
    if start[257:262] == b"ustar":
        raise InputError(
            f"the input {name} is a tar archive; extract its files (tar -x) and give those"
        )
    for magic, what, advice in _OTHERS:
        if start.startswith(magic):
            raise InputError(f"the input {name} {what}; {advice}")
    encoding = _wide_encoding(start)
    if encoding:
        raise InputError(
            f"the input {name} is {encoding} text, not UTF-8; convert it with: "
            f"iconv -f {encoding} -t UTF-8"
        )
    if start.lstrip()[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            f"the input {name} is an HTML or XML page, perhaps an error message of a server; "
            f"give files of records"
        )


def _wide_encoding(start: bytes) -> str:
    """Detect UTF-16 or UTF-32 by a byte order mark, or by zero bytes in the first letters."""
    if start.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    first = start[:64]
    if len(first) >= 8 and len(first) // 3 <= first.count(0) < len(first):
        if not any(first[0::4]) and not any(first[1::4]):
            return "UTF-32BE"
        if not any(first[2::4]) and not any(first[3::4]):
            return "UTF-32LE"
        if not any(first[0:8:2]):
            return "UTF-16BE"
        if not any(first[1:8:2]):
            return "UTF-16LE"
    return ""


def _text_format(
    name: str, start: bytes, more: Callable[[int], bytes], record_fields: Collection[str]
) -> Format:
    first = start.removeprefix(_UTF8_BOM).lstrip()[:1]
    if first == b"[":
        return _array_or_lines(start, more)
    text = _decoded(start)
    if first == b"{":
        if re.match(r"\{\s*'", text):
            raise InputError(
                f"the input {name} holds Python literals ({text[:20]!r}...), not JSON; "
                f"write its records with json.dumps"
            )
        return _objects_or_lines(name, start, more, record_fields)
    line = text.partition("\n")[0].strip()
    plain_name = name.removesuffix(".gz").removesuffix(".zst").lower()
    if line and (plain_name.endswith((".csv", ".tsv")) or _CSV_HEADER.fullmatch(line)):
        raise InputError(
            f"the input {name} is a CSV or TSV table (its first line is {line[:60]!r}), which "
            f"is not supported; convert it to Parquet or JSON Lines"
        )
    return "lines"


def _array_or_lines(start: bytes, more: Callable[[int], bytes]) -> Format:
    """Return ``array``, or ``lines`` if the first of several lines is a JSON array itself."""
    if b"\n" not in start.strip():
        start = more(MORE_BYTES)
    line, _, rest = start.removeprefix(_UTF8_BOM).strip().partition(b"\n")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return "array"
    return "lines" if rest.strip() else "array"


def _objects_or_lines(
    name: str, start: bytes, more: Callable[[int], bytes], record_fields: Collection[str]
) -> Format:
    """Return ``lines`` if the first object ends with its line, else ``objects``."""
    text = _decoded(start)
    line, newline, _ = text.partition("\n")
    value = _parsed(line)
    if value is None and newline:
        text = _decoded(more(MORE_BYTES))
    end = 0
    if value is None:
        value, end = _first_value(text)
    key = _wrapper(value, record_fields)
    wrapped = _WRAPPED.match(text) if value is None else None
    if wrapped and wrapped[2] in record_fields:
        key = wrapped[1]
    if key:
        raise InputError(
            f"the input {name} is one object that holds the records under {key!r}; write only "
            f"that list to a file, for example with: jq '.{key}'"
        )
    if not end:
        return "lines"
    spans_lines = "\n" in text[:end]
    return (
        "objects" if spans_lines or text[end:].lstrip(" \t\r\ufeff")[:1] in ("{", ",") else "lines"
    )


def _decoded(start: bytes) -> str:
    return start.removeprefix(_UTF8_BOM).decode(errors="replace").lstrip()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _first_value(text: str) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0


def _wrapper(value: Any, record_fields: Collection[str]) -> str:
    """Return the field that holds records, if the object is not a record itself."""
    if not isinstance(value, dict) or any(field in value for field in record_fields):
        return ""
    for key, items in value.items():
        if isinstance(items, list) and items and isinstance(items[0], dict):
            fields = record_fields if key in _WRAPPERS else _CONVERSATION_FIELDS
            if any(field in items[0] for field in fields):
                return str(key)
    return ""
