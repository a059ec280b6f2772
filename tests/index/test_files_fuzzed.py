# SPDX-License-Identifier: Apache-2.0
"""Damaged indexes and corpora give the rows of the whole ones, or one sentence.

MEGATRON_PACKING_FUZZ_CASES=10000 for a longer run of each test.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from megatron_packing.corpus.joined import open_corpus
from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.index.source import open_source
from megatron_packing.index.verify import verify_content, verify_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.thd.rows import PackedRows
from tests.conftest import write_corpus
from tests.index.manifest_file import edit_manifest, set_field

CASES = int(os.environ.get("MEGATRON_PACKING_FUZZ_CASES", "120"))
STRANGE = (
    *(None, True, -1, 0, 1, 2, 7, 2**31, 2**63 - 1, 2**63, 2**64, 10**40, 0.5, 1e308, float("nan")),
    *("", "x", "/", "/dev/zero", "a,b", "a:0.5", ":", "\x00", "<i4", "|O", "0" * 64, "x" * 300),
    *([], [[]], {}),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a corpus of two files, its record and its index."""
    folder = tmp_path_factory.mktemp("whole")
    lengths = [9, 30, 4, 17, 17, 12, 25, 2, 9, 6]
    corpus = write_corpus(folder / "corpus", lengths)
    trained = sum(int(corpus.loss_mask(i).sum()) for i in range(len(lengths)))
    record = {
        "tokenizer": "none",
        "tokenizer_sha256": "ab" * 32,
        "num_documents": len(lengths),
        "num_tokens": sum(lengths),
        "num_trained_tokens": trained,
        "has_loss_mask": True,
    }
    (folder / "corpus_corpus.json").write_text(json.dumps(record))
    plan = PlanSettings(strategy="optimal", sequence_length=20, overlong="split", alignment=2)
    corpus = open_corpus(folder / "corpus")
    build_pack_index(corpus, plan, folder / "packs", hash_content=True)
    return folder


def rows_of(index, corpus):
    """Everything that training reads in two epochs, and what follows a last row."""
    rows = PackedRows(index=index, corpus=corpus, seed=1, new_order_each_epoch=True)
    laid_out = [rows.row(sample) for sample in range(2 * len(index) + 1)]
    return [{name: array.tolist() for name, array in row.items()} for row in laid_out]


def read(folder, *, verify):
    index = PackIndex.open(folder / "packs")
    corpus = open_source(index)
    if verify:
        verify_pack_index(index, corpus.num_tokens)
        verify_content(index, corpus, deep=True)
    return rows_of(index, corpus)


def try_damage(folder: Path, path: Path, content: bytes, expected, seen: Counter) -> None:
    """Put ``content`` in the place of a file, read, and put the file back."""
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    try:
        for verify in (False, True):
            try:
                found = read(folder, verify=verify)
            except InputError as error:
                seen["refused" if "\n" not in str(error) else "refused in several lines"] += 1
            else:
                assert found == expected, f"other rows from {path.name}: {content!r:.200}"
                seen["the same"] += 1
    finally:
        path.unlink()
        path.write_bytes(whole)


def change_bytes(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut, repeat or replace a few bytes."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(changed) + 1) if changed else 0
        kind = chance.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = chance.randrange(256)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            changed[at:at] = changed[at : at + chance.randrange(1, 40)]
        elif kind == 4:
            del changed[at : at + chance.randrange(1, 40)]
        else:
            number = chance.choice((0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
            changed[at : at + 8] = number.to_bytes(8, "little")
    return bytes(changed)


def change_json(value, chance: random.Random):
    """A copy with one value, key or element changed, anywhere."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(sorted(value))
        changed = dict(value)
        kind = chance.randrange(8)
        if kind == 0:
            del changed[name]
        elif kind == 1:
            changed[chance.choice(("new", "", "plan", "\x00"))] = chance.choice(STRANGE)
        else:
            changed[name] = change_json(value[name], chance)
        return changed
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], change_json(value[at], chance), *value[at + 1 :]]
    if type(value) is int and chance.random() < 0.5:
        return value + chance.choice((-1, 1, 2, 1000))
    return chance.choice(STRANGE)


def run(whole, tmp_path, names, change, seed):
    """Damage files of a copy of the whole folder, one at a time.

    Its manifest is one without a digest, which would make most of the damage easy to find.
    """
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    prefix = str(folder / "corpus")
    edit_manifest(folder / "packs", set_field("corpus.prefix", prefix), digest="none")
    expected = read(folder, verify=True)
    chance, seen = random.Random(seed), Counter()
    for _ in range(CASES):
        path = folder / chance.choice(names)
        try_damage(folder, path, change(path.read_bytes(), chance), expected, seen)
    assert seen["refused"] > CASES
    assert set(seen) <= {"refused", "the same"}
    if CASES > 1000:
        print(f"{CASES:,} cases of {', '.join(names)}: {dict(seen)}")  # noqa: T201


def test_manifests_of_other_values(whole, tmp_path):
    def change(content, chance):
        manifest = json.loads(content)
        for _ in range(chance.choice((1, 1, 2))):
            manifest = change_json(manifest, chance)
        return json.dumps(manifest).encode()

    run(whole, tmp_path, ["packs/manifest.json"], change, seed=1)


def test_manifests_of_other_bytes(whole, tmp_path):
    run(whole, tmp_path, ["packs/manifest.json"], change_bytes, seed=2)


def test_arrays_of_other_bytes(whole, tmp_path):
    names = [f"packs/{path.name}" for path in sorted((whole / "packs").glob("*.npy"))]
    assert len(names) == 6
    run(whole, tmp_path, names, change_bytes, seed=3)


def test_corpora_of_other_bytes(whole, tmp_path):
    names = ["corpus.idx", "corpus.bin", "corpus_loss_mask.idx", "corpus_loss_mask.bin"]
    run(whole, tmp_path, names, change_bytes, seed=4)


def test_records_of_other_values(whole, tmp_path):
    """A record without a field is an older one, which is read."""
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    # Else the corpus that was copied is read where its copy is refused.
    edit_manifest(folder / "packs", set_field("corpus.prefix", str(folder / "corpus")))
    path = folder / "corpus_corpus.json"
    record = json.loads(path.read_text())
    expected = rows_of(PackIndex.open(folder / "packs"), open_corpus(folder / "corpus"))
    chance, seen = random.Random(5), Counter()
    for _ in range(CASES):
        content = json.dumps(change_json(record, chance)).encode()
        if chance.random() < 0.3:
            content = change_bytes(content, chance)
        try_damage(folder, path, content, expected, seen)
    assert min(seen["refused"], seen["the same"]) > CASES // 20


def test_arrays_that_are_too_large_to_hash_give_rows_of_the_corpus(whole, tmp_path, monkeypatch):
    """Rows of another order may be read unverified, but nothing else; ``verify`` sees them."""
    monkeypatch.setattr("megatron_packing.index.pack_index.HASHED_BYTES", 0)
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    corpus = open_corpus(folder / "corpus")
    documents = [corpus.tokens(number).tolist() for number in range(len(corpus))]
    names = sorted((folder / "packs").glob("*.npy"))
    chance = random.Random(6)
    expected = rows_of(PackIndex.open(folder / "packs"), corpus)
    for _ in range(CASES):
        path = chance.choice(names)
        content = path.read_bytes()
        path.write_bytes(change_bytes(content, chance))
        try:
            index = PackIndex.open(folder / "packs")
            for pack in range(len(index)):
                for epoch in (0, 1):
                    for document, start, length in index.segments(
                        pack, corpus.num_tokens, epoch=epoch
                    ):
                        assert 0 <= start < start + length < len(documents[document])
            same = rows_of(index, corpus) == expected
            if not same:
                with pytest.raises(InputError):
                    verify_pack_index(index, corpus.num_tokens)
        except InputError:
            pass
        finally:
            path.write_bytes(content)


def test_the_damage_is_not_always_seen_by_its_size(whole):
    """The fuzzer changes values too, not sizes alone."""
    content = (whole / "packs" / "document_ids.npy").read_bytes()
    chance = random.Random(7)
    same_size = sum(len(change_bytes(content, chance)) == len(content) for _ in range(200))
    assert 40 < same_size < 200
    assert np.load(whole / "packs" / "document_ids.npy").dtype == np.int32
