# SPDX-License-Identifier: Apache-2.0
"""Inputs of every kind give the same records, from any position on."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

pytest.importorskip("fsspec")
pytest.importorskip("pyarrow")

import pyarrow
import pyarrow.parquet

from megatron_packing.errors import InputError
from megatron_packing.records import inputs as inputs_module
from megatron_packing.records import storage
from megatron_packing.records.batches import Position
from megatron_packing.records.inputs import find_changed, find_inputs
from megatron_packing.records.readers import read_batches
from megatron_packing.records.record import RecordError
from tests.limits import TIME_LIMIT
from tests.records.object_store import object_store

# Some of them over a batch, so that there are several.
RECORDS = [
    {"messages": [{"role": "user", "content": f"{n} caf\u00e9 " * (1 if n % 7 else 9000)}]}
    for n in range(300)
]


def as_lines(records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def write_lines(folder):
    (folder / "a.jsonl").write_bytes(as_lines(RECORDS))
    return folder / "a.jsonl"


def write_windows_lines(folder):
    content = b"\xef\xbb\xbf" + as_lines(RECORDS).replace(b"\n", b"\r\n")
    (folder / "w.jsonl").write_bytes(content.rstrip())
    return folder / "w.jsonl"


def write_gzip(folder):
    with (folder / "a.jsonl.gz").open("wb") as file:
        for part in (RECORDS[:100], RECORDS[100:]):  # two members, as parallel writers leave
            file.write(gzip.compress(as_lines(part)))
    return folder / "a.jsonl.gz"


def write_zstd(folder):
    zstandard = pytest.importorskip("zstandard")
    compress = zstandard.ZstdCompressor().compress
    content = compress(as_lines(RECORDS[:100])) + compress(as_lines(RECORDS[100:]))
    (folder / "named.badly").write_bytes(content)
    return folder / "named.badly"


def write_array(folder):
    (folder / "a.json").write_text("\n " + json.dumps(RECORDS, indent=1), encoding="utf-8")
    return folder / "a.json"


def write_gzip_array(folder):
    (folder / "a.json.gz").write_bytes(gzip.compress(json.dumps(RECORDS).encode()))
    return folder / "a.json.gz"


def write_parquet(folder):
    table = pyarrow.Table.from_pylist(RECORDS)
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=110)
    return folder / "a.parquet"


def write_dataset(folder):
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_list(RECORDS[::-1]).select(range(299, -1, -1))
    saved.save_to_disk(folder / "saved", num_shards=2)
    return folder / "saved"


WRITERS = [
    *(write_lines, write_windows_lines, write_gzip, write_zstd, write_array, write_gzip_array),
    *(write_parquet, write_dataset),
]


BEGINNING = Position()


def read(inputs, start=BEGINNING, limit=1 << 24, **more):
    """All records, the numbers they have in their files, and the batches."""
    records, numbers, batches = [], [], []
    for batch in read_batches(inputs, start, limit, **more):
        batches.append(batch)
        found = list(batch.records())
        assert len(found) == batch.num_records
        for number, record in found:
            numbers.append((batch.input, number))
            try:
                records.append(record())
            except RecordError as error:
                records.append(error)
    return records, numbers, batches


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_records(write, tmp_path):
    inputs = find_inputs([str(write(tmp_path))])
    records, numbers, batches = read(inputs)
    assert records == RECORDS
    assert numbers == [(0, number) for number in range(1, 301)]
    assert len(batches) > 3
    progress = [batch.progress for batch in batches]
    assert progress == sorted(progress)
    assert progress[-1] == inputs[0].size


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITERS)
def test_reading_goes_on_after_any_batch(write, tmp_path):
    (tmp_path / "more").mkdir()
    inputs = find_inputs([str(write(tmp_path)), str(write_lines(tmp_path / "more"))])
    records, numbers, batches = read(inputs)
    assert len(records) == 600
    seen = 0
    for batch in batches:
        seen += batch.num_records
        rest, rest_numbers, _ = read(inputs, batch.end)
        assert rest == records[seen:]
        assert rest_numbers == numbers[seen:]


def test_blank_lines_count_as_lines_and_are_no_records(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"a": 1}\n  \n\n{"a": 2}')
    records, numbers, _ = read(find_inputs([str(path)]))
    assert records == [{"a": 1}, {"a": 2}]
    assert numbers == [(0, 2), (0, 5)]


def test_lines_that_hold_lists_are_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'[{"a": 1}]\n[{"a": 2}]\n')
    assert read(find_inputs([str(path)]))[0] == [[{"a": 1}], [{"a": 2}]]
    path.write_bytes(b'[{"a": 1}, {"a": 2}]\n')
    assert read(find_inputs([str(path)]))[0] == [{"a": 1}, {"a": 2}]


def test_a_line_over_the_limit_is_bad_and_the_next_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * 3_000_000 + b'"}\n{"a": 2}\n')
    records, numbers, _ = read(find_inputs([str(path)]), limit=1000)
    assert numbers == [(0, 1), (0, 2)]
    assert records[0].kind == "too long"
    assert "it has 3,000,010 bytes, more than --max-record-bytes 1,000" in str(records[0])
    assert records[1] == {"a": 2}


@pytest.mark.parametrize("write", [write_gzip, write_zstd, write_array, write_gzip_array])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_is_cut_off_gives_what_was_whole_and_says_so(write, share, tmp_path):
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    records, _, _ = read(find_inputs([str(path)]))
    *whole, last = records
    assert whole == RECORDS[: len(whole)]
    assert isinstance(last, RecordError)
    assert last.kind == "unreadable file"
    if share > 0.5:
        assert len(whole) > 100  # what was whole is there, however the file is packed


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_gzip, write_zstd, write_array, write_parquet])
def test_reading_goes_on_after_a_file_that_is_cut_off(write, tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / "more").mkdir()
    inputs = find_inputs([str(path), str(write_lines(tmp_path / "more"))])
    records, _, batches = read(inputs)
    assert records[-300:] == RECORDS
    assert sum(isinstance(record, RecordError) for record in records) == 1
    seen = 0
    for batch in batches:
        seen += batch.num_records
        rest, _, _ = read(inputs, batch.end)
        assert list(map(str, rest)) == list(map(str, records[seen:]))


def test_what_follows_a_compressed_file_costs_none_of_it(tmp_path):
    path = write_gzip(tmp_path)
    path.write_bytes(path.read_bytes() + b"garbage")
    records, _, _ = read(find_inputs([str(path)]))
    assert records[:-1] == RECORDS
    assert "the compressed file is damaged" in str(records[-1])


def test_a_bad_element_of_an_array_costs_no_other(tmp_path):
    path = tmp_path / "a.json"
    elements = ['{"a": 1}', '{"a": "\\ud800"}', '{"a": NaN', '"\\"]"', "[[]]", '{"a": 1e400}']
    path.write_text(f"[{','.join(elements)}]\n")
    records, numbers, _ = read(find_inputs([str(path)]))
    assert [number for _, number in numbers] == [1, 2, 3]
    assert records[:2] == [{"a": 1}, {"a": "\ud800"}]
    # The brace that is missing takes the rest of the array along, and the file says so.
    assert [record.kind for record in records[2:]] == ["unreadable file"]
    path.write_text(f"[{','.join([*elements[:2], 'nonsense', '', *elements[3:]])}]\n")
    records, _, _ = read(find_inputs([str(path)]))
    assert records[:2] == [{"a": 1}, {"a": "\ud800"}]
    assert [record.kind for record in records[2:4]] == ["not JSON", "not JSON"]
    assert records[4:] == ['"]', [[]], {"a": float("inf")}]


def test_an_element_over_the_limit_is_bad_and_the_next_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": "' + 'x\\"' * 100_000 + '"}, {"a": 2}]')
    records, numbers, _ = read(find_inputs([str(path)]), limit=1000)
    assert numbers == [(0, 1), (0, 2)]
    assert "it has 300,009 bytes, more than" in str(records[0])
    assert records[1] == {"a": 2}


def test_a_parquet_file_that_is_cut_off_is_one_bad_record(tmp_path):
    path = write_parquet(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    ((error,), _, _) = read(find_inputs([str(path)]))
    assert "the rest of the file cannot be read" in str(error)


def test_nulls_of_a_tables_other_rows_do_not_show(tmp_path):
    rows = [{"text": "a"}, {"text": "b", "more": {"x": 1}}]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[::-1]), path)
    records, _, _ = read(find_inputs([str(path)]))
    assert records == rows[::-1]


def test_an_input_is_not_read_twice_unseen(tmp_path):
    path = write_lines(tmp_path)
    with pytest.raises(InputError, match=r"a.jsonl is given twice; give it once"):
        find_inputs([str(path), str(tmp_path / "*.jsonl")])


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is not a regular file; write it to a file first"):
        find_inputs([str(tmp_path / "pipe")])


def test_globs_are_sorted_and_inputs_keep_their_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_bytes(b'{"name": "%s"}\n' % name.encode())
    inputs = find_inputs([str(tmp_path / "c.txt"), str(tmp_path / "*.jsonl")])
    assert [file.name for file in inputs] == [
        str(tmp_path / name) for name in ("c.txt", "a.jsonl", "b.jsonl")
    ]


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"the input missing.jsonl does not exist"):
        find_inputs(["missing.jsonl"])
    with pytest.raises(InputError, match=r"no file matches the input .*\*.jsonl"):
        find_inputs(["*.jsonl"])
    with pytest.raises(InputError, match=r"is a folder that Hugging Face datasets did not save"):
        find_inputs([str(tmp_path)])
    with pytest.raises(InputError, match="the input nowhere://x cannot be opened"):
        find_inputs(["nowhere://x"])
    (tmp_path / "train").mkdir()
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds several splits of a data set; .* train"):
        find_inputs([str(tmp_path)])


def test_the_folder_of_a_data_set_is_listed_once(tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    listed = []
    find = LocalFileSystem.find

    def counted(self, path, **options):
        listed.append(path)
        return find(self, path, **options)

    monkeypatch.setattr(LocalFileSystem, "find", counted)
    (file,) = find_inputs([str(write_dataset(tmp_path))])
    assert listed == [str(tmp_path / "saved")]
    assert find_changed([file]) is None
    (tmp_path / "saved" / "new").touch()
    assert find_changed([file]) is file


def test_files_of_fsspecs_memory_are_read():
    import fsspec

    system = fsspec.filesystem("memory")
    for name, content in (("b.jsonl", RECORDS[:2]), ("a.jsonl.gz", RECORDS[2:4])):
        lines = as_lines(content)
        system.pipe(f"/corpus/{name}", gzip.compress(lines) if name.endswith("gz") else lines)
    inputs = find_inputs(["memory://corpus/*"])
    assert [file.name for file in inputs] == [
        *("memory:///corpus/a.jsonl.gz", "memory:///corpus/b.jsonl")
    ]
    assert read(inputs)[0] == RECORDS[2:4] + RECORDS[:2]


@pytest.fixture
def store(monkeypatch):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with object_store(monkeypatch.setenv) as store:
        yield store


def test_files_of_an_s3_server_are_read_and_downloaded_once(store, tmp_path):
    contents = {}
    for write in (write_lines, write_parquet, write_zstd, write_array):
        path = write(tmp_path)
        contents[f"s3://bucket/data/{path.name}"] = path.read_bytes()
        store.put(f"/bucket/data/{path.name}", path.read_bytes())
    inputs = find_inputs(["s3://bucket/data/*"])
    assert [file.name for file in inputs] == sorted(contents)
    assert all(file.modified for file in inputs)
    digests = {}
    records, _, _ = read(inputs, on_digest=lambda *of: digests.update({of[0]: of[1:]}))
    assert records == RECORDS * 4
    for number, file in enumerate(inputs):
        content = contents[file.name]
        assert digests[number] == (hashlib.sha256(content).hexdigest(), len(content))
    assert find_changed(inputs) is None
    # An array whose first line is long is looked at further: a MiB.
    size = sum(map(len, contents.values()))
    assert store.downloaded() - (1 << 20) < 1.2 * size


@pytest.mark.slow
@pytest.mark.parametrize("is_glob", [True, False])
def test_small_objects_take_two_requests_each_at_most(store, is_glob):
    contents = {f"/bucket/small/{n:03}.jsonl": b'{"number": %d}\n' % n for n in range(150)}
    for path, content in contents.items():
        store.put(path, content)
    before = len(store.requests)
    seen = []
    patterns = ["s3://bucket/small/*"] if is_glob else [f"s3:/{path}" for path in contents]
    inputs = find_inputs(patterns, lambda *now: seen.append(now))
    assert seen[-1] == (150, 150)
    assert len(seen) == 150
    assert read(inputs)[0] == [{"number": n} for n in range(150)]
    assert find_changed(inputs) is None
    assert len(store.requests) - before <= (150 if is_glob else 300)
    assert store.downloaded() == sum(map(len, contents.values()))


def test_objects_too_many_to_be_kept_are_read_twice_in_part_only(store, monkeypatch):
    monkeypatch.setattr(inputs_module, "_KEPT_BYTES", 10_000)
    line = b'{"text": "' + b"x" * 8000 + b'"}\n'
    for number in range(20):
        store.put(f"/bucket/many/{number:02}.jsonl", line)
    before = len(store.requests)
    assert len(read(find_inputs(["s3://bucket/many/*"]))[0]) == 20
    assert len(store.requests) - before <= 40
    assert store.downloaded() <= 1.2 * 20 * len(line)


def test_small_objects_are_fetched_many_at_once(store, monkeypatch):
    """While one waits for its answer the others are asked for."""
    most = waiting = 0
    read_beginning = storage.read_beginning
    several = threading.Event()

    def slow(*arguments):
        nonlocal most, waiting
        waiting += 1
        most = max(most, waiting)
        if waiting >= 8:
            several.set()
        assert several.wait(TIME_LIMIT), "fewer than 8 are asked for at once"
        waiting -= 1
        return read_beginning(*arguments)

    for number in range(8):
        store.put(f"/bucket/few/{number}.jsonl", b"{}\n")
    monkeypatch.setattr(storage, "read_beginning", slow)
    assert len(find_inputs(["s3://bucket/few/*"])) == 8
    assert most == 8


class _Plain(BaseHTTPRequestHandler):
    """A server that knows no ranges; under /chunked it does not say sizes either."""

    protocol_version = "HTTP/1.1"
    contents: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        content = self.contents[self.path]
        chunked = self.path.startswith("/chunked")
        self.send_response(200)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body and chunked:
            for start in range(0, len(content), 100_000):
                part = content[start : start + 100_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        elif with_body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("kind", ["chunked", "plain"])
@pytest.mark.parametrize("write", [write_lines, write_gzip, write_parquet])
def test_http_servers_without_sizes_or_ranges_are_read(kind, write, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(storage, "BLOCK_BYTES", 1 << 16)  # several, of which the second is refused
    content = write(tmp_path).read_bytes()
    _Plain.contents = {f"/{kind}/file": content}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Plain)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        digests = []
        inputs = find_inputs([f"http://127.0.0.1:{server.server_address[1]}/{kind}/file"])
        records, _, _ = read(inputs, on_digest=lambda *of: digests.append(of))
        assert records == RECORDS
        assert digests == [(0, hashlib.sha256(content).hexdigest(), len(content))]
        assert find_changed(inputs) is None
    finally:
        server.shutdown()
        server.server_close()


def test_a_change_of_a_file_shows(tmp_path):
    path = write_lines(tmp_path)
    before = find_inputs([str(path)])
    assert find_inputs([str(path)]) == before
    os.utime(path, ns=(1, 1))
    assert find_inputs([str(path)]) != before
