# SPDX-License-Identifier: Apache-2.0
"""What a file is is told by its first bytes: read rightly, or refused in a sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import threading
import time
import tracemalloc
import zipfile

import pytest

pytest.importorskip("fsspec")
pytest.importorskip("pyarrow")

import pyarrow
import pyarrow.feather
import pyarrow.parquet

from megatron_packing.errors import InputError
from megatron_packing.records.batches import Position
from megatron_packing.records.formats import tell_format
from megatron_packing.records.inputs import find_inputs
from megatron_packing.records.readers import read_batches
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.table import RECOGNIZED_BY

ONE = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho."}]}
TWO = {"messages": [{"role": "user", "content": "{["}, {"role": "assistant", "content": '"}'}]}
FIRST, SECOND = json.dumps(ONE), json.dumps(TWO)
LINES = f"{FIRST}\n{SECOND}\n"
BOM = "\ufeff"


def write(folder, content, name="input.jsonl"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path, limit=1 << 24):
    """The file's format and its records, or the errors in their places."""
    (file,) = find_inputs([str(path)], record_fields=RECOGNIZED_BY)
    records = []
    for batch in read_batches([file], Position(), limit):
        for _, record in batch.records():
            try:
                records.append(record())
            except RecordError as error:
                records.append(error)
    return file.format, records


@pytest.mark.parametrize(
    ("content", "format_"),
    [
        (LINES, "lines"),
        (BOM + LINES, "lines"),
        (f"{BOM}{FIRST}\n{BOM}{SECOND}\n", "lines"),
        (LINES.replace("\n", "\r\n"), "lines"),
        (LINES.replace("\n", "\r"), "objects"),
        (FIRST + SECOND, "objects"),
        (f"{FIRST} {SECOND}\n", "objects"),
        (f"{FIRST},\n{SECOND}\n", "objects"),
        (f"{FIRST},\n{SECOND},\n", "objects"),
        (f"{BOM}{FIRST}{BOM}{SECOND}", "objects"),
        (json.dumps(ONE, indent=2) + "\n" + json.dumps(TWO, indent=2), "objects"),
        (f"[{FIRST}, {SECOND}]", "array"),
        (f"[{FIRST},\n{SECOND},\n]\n", "array"),
        (json.dumps([ONE, TWO], indent=4), "array"),
    ],
)
def test_two_records_are_read_in_every_shape(tmp_path, content, format_):
    assert read(write(tmp_path, content)) == (format_, [ONE, TWO])
    assert read(write(tmp_path, gzip.compress(content.encode()))) == (format_, [ONE, TWO])


@pytest.mark.parametrize("count", [1, 40])
def test_objects_over_many_blocks_are_read(tmp_path, count):
    records = [{"text": f'{n}"\\}}{{' * 5000} for n in range(count)]
    content = "\n".join(json.dumps(record, indent=1) for record in records)
    assert read(write(tmp_path, content)) == ("objects", records)


def test_what_stands_between_objects_is_a_bad_record(tmp_path):
    format_, records = read(write(tmp_path, f"{FIRST}{SECOND} nonsense {FIRST}]{SECOND}{{"))
    assert format_ == "objects"
    kinds = [record.kind if isinstance(record, RecordError) else record for record in records]
    assert kinds == [ONE, TWO, "not JSON", ONE, "not JSON", TWO, "unreadable file"]
    assert "the file ends within an object" in str(records[-1])


def test_an_object_over_the_limit_is_bad_and_the_next_is_read(tmp_path):
    content = json.dumps({"a": "x" * 300_000}, indent=1) + FIRST
    _, (long, record) = read(write(tmp_path, content), limit=1000)
    assert "it has 300,012 bytes, more than --max-record-bytes 1,000" in str(long)
    assert record == ONE


def test_a_line_that_is_cut_costs_no_other(tmp_path):
    for bad in ("{", '{"messages": [{"role": "us', FIRST[:-1], "{broken"):
        format_, records = read(write(tmp_path, f"{bad}\n{LINES}"))
        assert format_ == "lines"
        assert records[1:] == [ONE, TWO]
        assert records[0].kind == "not JSON"


def test_an_array_without_records_has_none(tmp_path):
    for content in ("[]", " [\n]\n"):
        assert read(write(tmp_path, content)) == ("array", [])


def test_lists_of_messages_are_elements(tmp_path):
    lists = [ONE["messages"], TWO["messages"]]
    assert read(write(tmp_path, json.dumps(lists))) == ("array", lists)
    lines = "".join(json.dumps(one) + "\n" for one in lists)
    assert read(write(tmp_path, lines)) == ("lines", lists)


def tar(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        member = tarfile.TarInfo("a.jsonl")
        member.size = len(LINES)
        archive.addfile(member, io.BytesIO(LINES.encode()))
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jsonl", LINES)
    return buffer.getvalue()


POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (LINES.encode("utf-16"), "is UTF-16 text, not UTF-8; convert it with: iconv -f UTF-16"),
        (LINES.encode("utf-16-le"), "is UTF-16LE text"),
        (LINES.encode("utf-16-be"), "is UTF-16BE text"),
        (("\n\n" + LINES).encode("utf-16-le"), "is UTF-16LE text"),
        (LINES.encode("utf-32"), "is UTF-32 text"),
        (LINES.encode("utf-32-be"), "is UTF-32BE text"),
        (gzip.compress(LINES.encode("utf-16")), "is UTF-16 text"),
        (bz2.compress(LINES.encode()), r"is compressed with bzip2; decompress it \(bunzip2\)"),
        (lzma.compress(LINES.encode()), "is compressed with xz"),
        (zipped(), "is a zip archive; extract its files"),
        (tar("w"), "is a tar archive; extract its files"),
        (tar("w:gz"), "is a tar archive; extract its files"),
        (POINTER, r"is a pointer of git-lfs, not the file itself; fetch .* \(git lfs pull\)"),
        (
            "instruction,output\nHi,Ho.\n",
            "is a CSV or TSV table .*'instruction,output'",
        ),
        ("question\tanswer\nHi\tHo.\n", "is a CSV or TSV table"),
        (f"{ONE}\n{TWO}\n", "holds Python literals .* json.dumps"),
        (json.dumps({"data": [ONE, TWO]}), "is one object that holds the records under 'data'"),
        (
            json.dumps({"n": 2, "rows": [ONE]}, indent=1),
            "is one object .* the records under 'rows'; .*jq '.rows'",
        ),
        (
            json.dumps({"data": [{"text": "x" * 3_000_000}]}),
            "is one object .* the records under 'data'",
        ),
        ("<!DOCTYPE html><html></html>", "is an HTML or XML page"),
        (b"PARE" + bytes(50), "is an encrypted Parquet file"),
    ],
)
def test_what_a_file_is_is_told(tmp_path, content, sentence):
    with pytest.raises(InputError, match=rf"the input \S+input.jsonl {sentence}") as info:
        read(write(tmp_path, content))
    assert "\n" not in str(info.value)


def test_lines_with_lists_of_objects_are_no_wrapper(tmp_path):
    records = [{"turns": [{"role": "user", "text": "a"}]}, {"data": [{"x": 1}], "text": "b"}]
    content = "".join(json.dumps(record) + "\n" for record in records)
    assert read(write(tmp_path, content)) == ("lines", records)


def test_a_line_of_utf16_among_others_is_one_bad_record(tmp_path):
    content = f"{FIRST}\n".encode() + FIRST.encode("utf-16-le") + b"\n" + SECOND.encode()
    _, records = read(write(tmp_path, content))
    assert records[0] == ONE
    assert records[-1] == TWO
    assert "zero bytes, as in UTF-16" in str(records[1])


def test_gzip_that_is_padded_with_zeros_is_whole(tmp_path):
    packed = gzip.compress(f"{FIRST}\n".encode())
    more = gzip.compress(f"{SECOND}\n".encode())
    for padded in (packed + more + bytes(200_000), packed + bytes(512) + more):
        assert read(write(tmp_path, padded)) == ("lines", [ONE, TWO])
    _, records = read(write(tmp_path, packed + bytes(512) + b"x"))
    assert records[0] == ONE
    assert records[1].kind == "unreadable file"


def test_zstd_with_a_skippable_frame_is_read(tmp_path):
    """pzstd begins each frame with one, which holds its size."""
    compress = pytest.importorskip("zstandard").ZstdCompressor().compress
    content = b""
    for one in (FIRST, SECOND):
        frame = compress(f"{one}\n".encode())
        content += b"\x50\x2a\x4d\x18\x04\x00\x00\x00" + len(frame).to_bytes(4, "little") + frame
    assert read(write(tmp_path, content)) == ("lines", [ONE, TWO])


def test_a_small_compressed_file_does_not_fill_the_memory(tmp_path):
    """A gigabyte of zeros is 32 KiB of zstd."""
    zstandard = pytest.importorskip("zstandard")
    packer = zstandard.ZstdCompressor().compressobj()
    parts = [packer.compress(bytes(1 << 24)) for _ in range(64)]
    path = write(tmp_path, b"".join([*parts, packer.flush()]))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    try:
        _, (error,) = read(path, limit=1 << 20)
        assert "it has 1,073,741,824 bytes" in str(error)
        assert tracemalloc.get_traced_memory()[1] < 1 << 29
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["file", "stream", "feather"])
def test_arrow_files_are_read(tmp_path, kind):
    table = pyarrow.Table.from_pylist([ONE, TWO] * 200)
    path = tmp_path / "a.arrow"
    if kind == "feather":
        pyarrow.feather.write_feather(table, str(path), compression="zstd")
    else:
        new = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=70)
    assert read(path) == ("arrow", [ONE, TWO] * 200)
    path.write_bytes(path.read_bytes()[:-300])
    _, records = read(path)
    assert records[-1].kind == "unreadable file"


def test_a_row_of_an_arrow_file_with_broken_text_costs_no_other(tmp_path):
    texts = [b"good", b"caf\xe9", b"better"]
    array = pyarrow.array(texts, pyarrow.binary()).view(pyarrow.string())
    path = tmp_path / "a.arrow"
    with pyarrow.ipc.new_file(str(path), pyarrow.schema([("text", pyarrow.string())])) as writer:
        writer.write_table(pyarrow.table({"text": array}))
    _, (first, broken, last) = read(path)
    assert (first, last) == ({"text": "good"}, {"text": "better"})
    assert broken.kind == "not UTF-8"


def samples(folder) -> dict[str, bytes]:
    records = [{"text": f"{n} {'x' * n}"} for n in range(60)]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    table = pyarrow.Table.from_pylist([{**ONE, "score": 1.5, "n": 3}] * 60)
    pyarrow.parquet.write_table(table, folder / "p", row_group_size=20)
    with pyarrow.ipc.new_file(str(folder / "f"), table.schema) as writer:
        writer.write_table(table)
    found = {
        "lines": lines,
        "array": json.dumps(records).encode(),
        "objects": json.dumps(records, indent=1)[1:-1].encode(),
        "gzip": gzip.compress(lines),
        "parquet": (folder / "p").read_bytes(),
        "arrow": (folder / "f").read_bytes(),
    }
    try:
        import zstandard
    except ImportError:
        return found
    return {**found, "zstd": zstandard.ZstdCompressor().compress(lines)}


def test_mutated_files_are_read_or_refused_and_never_hang(tmp_path):
    """Each file has a minute of its own; most take a millisecond."""
    chance = random.Random(11)
    path = tmp_path / "mutated"
    for kind, content in samples(tmp_path).items():
        for _ in range(60):
            mutated = bytearray(content)
            for _ in range(chance.choice([1, 1, 3, 20])):
                place = chance.randrange(len(mutated))
                act = chance.randrange(4)
                if act == 0:
                    mutated[place] ^= 1 << chance.randrange(8)
                elif act == 1:
                    mutated[place : place + 4] = chance.randbytes(4)
                elif act == 2:
                    del mutated[place : place + chance.randrange(1, 40)]
                else:
                    mutated[place:place] = mutated[place : place + chance.randrange(1, 40)]
            path.write_bytes(mutated)
            began = time.thread_time()
            said, records = "", []
            try:
                _, records = read(path)
            except InputError as error:
                said = str(error)
            # At least something is said of a file of which something is lost.
            assert records or said.startswith(f"the input {path} "), kind
            assert time.thread_time() - began < 60, kind
    assert threading.active_count() < 50


def test_noise_with_the_name_of_parquet_is_no_utf_16_text():
    noise = b"\xff\xfe" + bytes(range(256))
    with pytest.raises(InputError, match=r"x\.parquet is not a Parquet file"):
        tell_format("x.parquet", noise, lambda size: noise[:size])
