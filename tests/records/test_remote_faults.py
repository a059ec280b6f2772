# SPDX-License-Identifier: Apache-2.0
"""A failed read of a remote file loses no record: the run ends with a sentence and goes on.

More runs: ``FAULT_RUNS=200 pytest tests/records/test_remote_faults.py -k random -s``
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

import pyarrow
import pyarrow.parquet

from megatron_packing.errors import InputError
from megatron_packing.records import readers, storage
from megatron_packing.records.storage import StorageError
from megatron_packing.tokenize.run import TokenizeOptions, tokenize
from tests.records.object_store import FAULTS, fault_runs, object_store

ENDINGS = (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", "_corpus.json", "_rejects.jsonl")
SENTENCES = ("could not be read (", "run the same command again; it continues where it stopped")


@pytest.fixture(scope="module")
def store():
    patch = pytest.MonkeyPatch()
    with object_store(patch.setenv, read_seconds=2) as store:
        yield store
    patch.undo()


@pytest.fixture(scope="module")
def objects(store, chitchat, tmp_path_factory) -> dict[str, bytes]:
    """Real conversations as objects of several blocks, each format, a bad line among them."""
    lines = (chitchat / "conversations.jsonl").read_bytes().splitlines(keepends=True)
    parquet = tmp_path_factory.mktemp("objects") / "c.parquet"
    rows = [json.loads(line) for line in lines[250:350]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet, row_group_size=30)
    objects = {
        "/bucket/data/a.jsonl": b"".join([*lines[:80], b"{broken\n", *lines[80:160]]),
        "/bucket/data/b.jsonl.gz": gzip.compress(b"".join(lines[160:250])),
        "/bucket/data/c.parquet": parquet.read_bytes(),
        "/bucket/data/d.json": b"[" + b",".join(lines[350:420]) + b"]",
        **{f"/bucket/data/e{n}.jsonl": lines[420 + n] for n in range(5)},
    }
    for path, content in objects.items():
        store.put(path, content)
    return objects


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(storage, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(readers, "_BATCH_BYTES", 1 << 14)


def run(prefix: Path, chitchat: Path, **changes):
    return tokenize(
        TokenizeOptions(
            inputs=["s3://bucket/data/*"],
            output_prefix=prefix,
            tokenizer=str(chitchat / "tokenizer"),
            **{"on_bad_record": "skip", "checkpoint_seconds": 0.05, **changes},
        )
    )


def run_to_end(prefix: Path, chitchat: Path):
    """Again and again, as the sentence says: a busy machine may answer late too."""
    for _ in range(50):
        try:
            return run(prefix, chitchat)
        except StorageError:
            continue
    raise AssertionError("it comes to no end")


def contents(prefix: Path) -> dict[str, bytes]:
    return {ending: Path(f"{prefix}{ending}").read_bytes() for ending in ENDINGS}


@pytest.fixture(scope="module")
def whole(store, objects, chitchat, tmp_path_factory) -> dict[str, bytes]:
    store.heal()
    prefix = tmp_path_factory.mktemp("whole") / "corpus"
    progress = run_to_end(prefix, chitchat)
    assert len(objects) == 9
    assert (progress.num_records, progress.num_documents) == (426, 425)
    return contents(prefix)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_random_faults_end_in_a_sentence_or_in_the_same_bytes(
    store, objects, whole, chitchat, tmp_path
):
    chance = random.Random(7)
    seen: Counter[str] = Counter()
    for number in range(fault_runs()):
        prefix = tmp_path / f"corpus{number}"
        fault = FAULTS[number % len(FAULTS)]
        times = chance.choice([1, 1000])
        skip = bool(chance.getrandbits(1))
        replaced: list[str] = []

        def replace(path, replaced=replaced):
            replaced.append(path)
            store.put(path, objects[path][:-40] + b" " * 40)

        store.on_fault = replace
        store.break_down(fault, chance.randrange(45), 1 if fault == "replaced" else times)
        options = {"on_bad_record": "skip" if skip else "error"}
        text = ""
        try:
            run(prefix, chitchat, **options)
            seen[f"{fault}: ended well"] += 1
        except InputError as error:
            text = str(error)
        finally:
            store.heal()
            for path in replaced:
                store.put(path, objects[path])
        if "cannot be used: it is not JSON" in text:
            assert not skip
            assert "a.jsonl, line 81" in text
            seen[f"{fault}: the bad line"] += 1
        elif text:
            check_sentence(text, fault)
            seen[f"{fault}: a sentence{' (skip)' if skip else ''}"] += 1
        if not Path(f"{prefix}.idx").exists():
            run_to_end(prefix, chitchat)
        assert contents(prefix) == whole, (fault, times, skip)
        assert not Path(f"{prefix}.unfinished").exists()
    lines = [f"{count:5} {what}" for what, count in sorted(seen.items())]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert sum(count for what, count in seen.items() if "sentence" in what) >= fault_runs() // 4


def check_sentence(text: str, fault: str) -> None:
    assert "s3://bucket/data/" in text or "bucket" in text
    assert "on-bad-record" not in text
    if fault == "replaced":
        assert "was changed while it was " in text
        assert ("read; start over with --restart" in text) or ("run the same command" in text)
    elif "cannot be opened" in text:  # there is nothing to go on from yet
        assert "run the same command again" in text
    else:
        assert all(part in text for part in SENTENCES), text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "cause", "on_bad_record"),
    [
        pytest.param(
            "expired token", "The provided token has expired", "skip", marks=pytest.mark.slow
        ),
        ("denied", "Access Denied", "error"),
        ("cut body", "Response payload is not completed", "skip"),
        pytest.param("no answer", "did not answer in time", "skip", marks=pytest.mark.slow),
    ],
)
def test_what_a_read_failed_of_is_said(
    store, whole, chitchat, tmp_path, fault, cause, on_bad_record
):
    # Past the files' beginnings and some blocks of a.jsonl, and before its bad line.
    store.break_down(fault, 12, 1000)
    try:
        with pytest.raises(
            InputError, match=r"the input s3://bucket/data/\S+ could not be"
        ) as info:
            run(tmp_path / "corpus", chitchat, on_bad_record=on_bad_record)
    finally:
        store.heal()
    assert cause in str(info.value)
    check_sentence(str(info.value), fault)
    assert not Path(f"{tmp_path / 'corpus'}_rejects.jsonl").exists()
    run_to_end(tmp_path / "corpus", chitchat)
    assert contents(tmp_path / "corpus") == whole


def test_a_corpus_from_remote_files_is_that_of_local_ones(objects, whole, chitchat, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path, content in objects.items():
        (folder / path.rpartition("/")[2]).write_bytes(content)
    tokenize(
        TokenizeOptions(
            inputs=[str(folder / "*")],
            output_prefix=tmp_path / "local",
            tokenizer=str(chitchat / "tokenizer"),
            on_bad_record="skip",
        )
    )
    local = contents(tmp_path / "local")
    assert local[".bin"] == whole[".bin"]
    assert local["_loss_mask.bin"] == whole["_loss_mask.bin"]
    here, there = (json.loads(one["_corpus.json"])["inputs"] for one in (local, whole))
    assert [(one["sha256"], one["bytes"]) for one in here] == [
        (one["sha256"], one["bytes"]) for one in there
    ]
