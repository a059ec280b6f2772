# SPDX-License-Identifier: Apache-2.0
"""Pack indexes in object stores."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("megatron.core")
pytest.importorskip("moto")

from megatron.core.msc_utils import MultiStorageClientFeature

from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.megatron import stored_indexes
from megatron_packing.megatron.stored_indexes import local_index
from megatron_packing.planning.settings import PlanSettings
from tests.conftest import chat_like_lengths, write_corpus
from tests.megatron.test_dataset import ROW, build
from tests.trainer import ROW as TRAINER_ROW
from tests.trainer import needs_trainer, train

URL = "s3://bucket/sets/packs"


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(stored_indexes, "_copied", {})


def upload(store, folder):
    for path in folder.iterdir():
        store.put(f"/bucket/sets/packs/{path.name}", path.read_bytes())


def make(tmp_path, store, *, row=ROW, seed=0):
    """A corpus here, and a pack index of it here and in the store."""
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(100, longest=row))
    path = tmp_path / f"packs{seed}"
    settings = PlanSettings(strategy="optimal", sequence_length=row, seed=seed)
    build_pack_index(corpus, settings, path)
    upload(store, path)
    return corpus, PackIndex.open(path)


def test_an_index_is_copied_whole_once_and_again_when_it_changes(tmp_path, store):
    corpus, index = make(tmp_path, store)
    cache = str(tmp_path / "objects")
    (dataset, _, _) = build(
        [corpus.prefix], tmp_path, packing_indexes=(URL,), object_storage_cache_path=cache
    )
    copy = dataset.index.path
    assert copy.is_relative_to(cache)
    assert dataset.index.digest == index.digest
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in index.path.iterdir()
    }
    stored_indexes._copied.clear()  # as in another run
    store.requests.clear()
    assert local_index(f"{URL}/", cache) == copy
    assert [path for method, path, _ in store.requests if method == "GET"] == [
        "/bucket/sets/packs/manifest.json"
    ]
    _, other = make(tmp_path, store, seed=1)
    assert local_index(URL, cache) == copy  # a run keeps what it began with
    stored_indexes._copied.clear()
    changed = local_index(URL, cache)
    assert changed != copy
    assert PackIndex.open(changed).digest == other.digest
    assert PackIndex.open(copy).digest == index.digest


def test_what_is_no_whole_index_is_named_by_its_url_and_leaves_nothing(tmp_path, store):
    cache = tmp_path / "objects"
    with pytest.raises(InputError, match=f"{URL} is not a pack index"):
        local_index(URL, str(cache))
    with pytest.raises(InputError, match="give --object-storage-cache-path"):
        local_index(URL, None)
    _, index = make(tmp_path, store)
    name = "document_ids.npy"
    content = bytearray((index.path / name).read_bytes())
    content[-1] ^= 64
    store.put(f"/bucket/sets/packs/{name}", bytes(content))
    with pytest.raises(InputError, match=f"^{URL}/{name} is not what was written"):
        local_index(URL, str(cache))
    store.put("/bucket/sets/packs/manifest.json", b"{}")
    with pytest.raises(InputError, match=f"^{URL}/manifest.json does not list the arrays"):
        local_index(URL, str(cache))
    upload(store, index.path)
    store.break_down("denied", after=1, times=100)
    with pytest.raises(InputError, match=r"packs/.*npy cannot be read .*credentials"):
        local_index(URL, str(cache))
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    store.heal()
    assert local_index(URL, str(cache)).is_dir()


def test_an_index_of_the_multi_storage_client_is_copied(tmp_path, monkeypatch, store):
    _, index = make(tmp_path / "lab", store)
    # The client keeps the profiles of a process by name, so this name is no other test's.
    provider = {"type": "file", "options": {"base_path": str(tmp_path / "lab")}}
    settings = tmp_path / "client.json"
    settings.write_text(json.dumps({"profiles": {"packs": {"storage_provider": provider}}}))
    monkeypatch.setenv("MSC_CONFIG", str(settings))
    MultiStorageClientFeature.enable()
    try:
        copy = local_index(f"msc://packs/{index.path.name}", str(tmp_path / "objects"))
    finally:
        MultiStorageClientFeature.disable()
    assert PackIndex.open(copy).digest == index.digest


@needs_trainer
def test_a_run_on_a_stored_index_reads_the_rows_of_the_local_one(tmp_path, store, environment):
    corpus, index = make(tmp_path, store, row=TRAINER_ROW)
    flags = f"--train-iters 2 --data-path {corpus.prefix} --packing-indexes"
    local = train(f"{flags} {index.path}")
    flags += f" {URL} --object-storage-cache-path {tmp_path / 'objects'}"
    store.requests.clear()
    assert train(flags, 2, environment=environment).rows == local.rows
    gets = [path for method, path, _ in store.requests if method == "GET"]
    assert len(gets) == len(set(gets)) == len(list(index.path.iterdir()))  # the first rank's
