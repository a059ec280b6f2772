# SPDX-License-Identifier: Apache-2.0
"""Reads corpora in ``s3://`` and ``msc://`` with Megatron's own object storage readers.

Rank 0 copies the ``.idx`` files and the record once into ``--object-storage-cache-path``, under
Megatron's names. It compares sizes and entity tags at each start. Tokens and loss masks are read
with one request per segment. Megatron's default request of 256 MiB suits sequential reading, but a
row's documents lie anywhere in a corpus.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from megatron.core.datasets.indexed_dataset import OBJECT_STORAGE_BIN_READERS
from megatron.core.datasets.object_storage_utils import (
    ObjectStorageConfig,
    get_object_storage_access,
    is_object_storage_path,
    parse_s3_path,
)
from megatron.core.msc_utils import MultiStorageClientFeature
from numpy.typing import NDArray

from megatron_packing.corpus.corpus import LOSS_MASK_SUFFIX, Corpus, loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import data_path, index_path
from megatron_packing.corpus.record import corpus_record_path
from megatron_packing.corpus.storage import DataReader, FileStorage, is_remote
from megatron_packing.errors import InputError, UnreadableError
from megatron_packing.files.regular_file import read_json_object
from megatron_packing.files.whole import write_whole
from megatron_packing.first_rank import on_first_rank

_RECORD_SUFFIX = "_objects.json"
_EXACT = 1
"""Chunk size in bytes of Megatron's S3 reader: 1, so that requests are not rounded up."""


@dataclass(frozen=True, slots=True)
class _Objects:
    """The cached objects of a corpus, as stored in ``PREFIX_objects.json``."""

    found: dict[str, list[Any]] = field(default_factory=dict)
    """By file ending: the object's size, and its entity tag or time of last change."""
    fingerprint: str | None = None
    """The fingerprint of the corpus."""


_fetched: dict[tuple[str, str], _Objects] = {}
"""The corpora that this process has looked up, by cache folder and prefix."""


@dataclass(frozen=True, slots=True)
class MegatronStorage:
    """Opens corpora in file systems and object stores; see ``corpus.storage.Storage``."""

    mapped: bool = True
    """False with ``--no-mmap-bin-files``."""
    cache: str | None = None
    """``--object-storage-cache-path``: a folder that all ranks share."""

    def local_prefix(self, prefix: Path) -> Path:
        """Return the local prefix of the ``.idx`` files and the record; rank 0 copies changed ones.

        Raises:
            InputError: The store cannot be read, or no cache was given.
        """
        if not is_remote(prefix):
            return prefix
        name = str(prefix)
        if not is_object_storage_path(name):
            raise InputError(
                f"{name} is neither s3:// nor msc://, which Megatron can read; copy the corpus"
            )
        if self.cache is None:
            raise InputError(
                f"{name} is in an object store: give --object-storage-cache-path, a folder that "
                f"all nodes share, for its .idx files"
            )
        local = Path(self.cache) / name.partition("://")[2]
        key = (self.cache, name)
        if key not in _fetched:
            on_first_rank(f"fetch {name}", lambda: self._fetch(prefix, local), f"read {name}")
            _fetched.setdefault(key, _read_objects(local))
        return local

    def data_size(self, prefix: Path) -> int | None:
        """Return the size in bytes of a ``.bin`` in an object store."""
        if not is_remote(prefix):
            return None
        ending, objects = self._objects(prefix)
        found = objects.found.get(f"{ending}.bin")
        return None if found is None else int(found[0])

    def open_data(self, prefix: Path, size: int) -> DataReader:
        """Open a ``.bin``; see ``FileStorage.open_data``."""
        if is_remote(prefix):
            return _ObjectData(str(data_path(prefix)), str(self.cache))
        return FileStorage(self.mapped).open_data(prefix, size)

    def known_fingerprint(self, prefix: Path) -> str | None:
        """Return the fingerprint that rank 0 computed when it copied the ``.idx`` files."""
        return self._objects(prefix)[1].fingerprint if is_remote(prefix) else None

    def _objects(self, prefix: Path) -> tuple[str, _Objects]:
        """Return the suffix of a prefix ("" or the loss mask's) and the objects of its corpus."""
        name = str(prefix)
        for ending in ("", LOSS_MASK_SUFFIX):
            corpus = name.removesuffix(ending)
            if name.endswith(ending) and (str(self.cache), corpus) in _fetched:
                return ending, _fetched[str(self.cache), corpus]
        return "", _Objects()

    def _fetch(self, prefix: Path, local: Path) -> None:
        """Copy changed objects and compute the fingerprint."""
        store = ObjectStore.of(str(prefix))
        data = [data_path(prefix), data_path(loss_mask_prefix(prefix))]
        copied = [
            index_path(prefix),
            index_path(loss_mask_prefix(prefix)),
            corpus_record_path(prefix),
        ]
        before = _read_objects(local)
        found: dict[str, list[Any]] = {}
        for path in (*data, *copied):
            seen = store.look_at(str(path))
            ending, target = path.name[len(prefix.name) :], local.parent / path.name
            if seen is not None:
                found[ending] = seen
            if path in data:
                continue
            if seen is None:
                target.unlink(missing_ok=True)
            elif before.found.get(ending) != seen or not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                store.download(str(path), target)
        key = (str(self.cache), str(prefix))
        missing = [ending for ending in (".idx", ".bin") if ending not in found]
        if missing:
            raise InputError(
                f"{prefix}{missing[0]} does not exist; give the prefix of a Megatron corpus: the "
                f"name of its .bin and .idx objects without the ending"
            )
        objects = replace(before, found=found)
        if before.found != found or before.fingerprint is None:
            _fetched[key] = _Objects(found)
            try:
                objects = _Objects(found, Corpus(prefix, self).fingerprint)
            finally:
                del _fetched[key]
            text = json.dumps(asdict(objects), indent=2) + "\n"
            write_whole(local.with_name(local.name + _RECORD_SUFFIX), text)
        _fetched[key] = objects


def _read_objects(local: Path) -> _Objects:
    """Return the cached objects; none if caching did not finish."""
    path = local.with_name(local.name + _RECORD_SUFFIX)
    try:
        record = read_json_object(path, "remove it")
    except UnreadableError:
        return _Objects()
    return _Objects(record.get("found") or {}, record.get("fingerprint"))


class _ObjectData:
    """The bytes of an object. Each process reads them with its own client."""

    def __init__(self, url: str, cache: str) -> None:
        self._url = url
        self._cache = cache
        self._readers: dict[int, Any] = {}

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return bytes ``start`` to ``stop`` with one request.

        Raises:
            UnreadableError: The store did not return them.
        """
        if start == stop:
            return np.zeros(0, np.uint8)
        process = os.getpid()
        if process not in self._readers:
            kind = OBJECT_STORAGE_BIN_READERS[get_object_storage_access(self._url)]
            self._readers[process] = kind(self._url, ObjectStorageConfig(self._cache, _EXACT))
        try:
            data = np.asarray(self._readers[process].read(np.uint8, stop - start, start))
        except Exception as error:  # clients raise many types, and Megatron asserts
            raise _unreadable(self._url, error) from error
        if len(data) != stop - start:
            raise UnreadableError(
                f"{self._url} returned {len(data)} of {stop - start} bytes from byte {start} on, "
                f"so it was replaced after the corpus was opened: restart the run"
            )
        return data


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Looks up and downloads objects."""

    look: Callable[[str], list[Any]]
    copy: Callable[[str, str], None]

    @classmethod
    def of(cls, url: str) -> ObjectStore:
        """Return the store of an object, with Megatron's client for it."""
        if not url.startswith("s3://"):
            client = MultiStorageClientFeature.import_package()

            def look(url: str) -> list[Any]:
                found = client.info(url)
                return [found.content_length, str(found.etag or found.last_modified)]

            return cls(look, client.download_file)
        s3 = importlib.import_module("boto3").client("s3")

        def look_s3(url: str) -> list[Any]:
            bucket, key = parse_s3_path(url)
            found = s3.head_object(Bucket=bucket, Key=key)
            return [found["ContentLength"], found["ETag"]]

        return cls(look_s3, lambda url, path: s3.download_file(*parse_s3_path(url), path))

    def look_at(self, url: str) -> list[Any] | None:
        """Return the size and version of an object; None if it does not exist."""
        try:
            return self.look(url)
        except FileNotFoundError:
            return None
        except Exception as error:  # clients raise many types
            answer = getattr(error, "response", None)
            if isinstance(answer, dict) and answer.get("Error", {}).get("Code") == "404":
                return None
            raise _unreadable(url, error) from error

    def download(self, url: str, path: Path) -> None:
        """Copy an object to a file, atomically."""
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self.copy(url, str(unfinished))
            unfinished.replace(path)
        except Exception as error:
            raise _unreadable(url, error) from error
        finally:
            unfinished.unlink(missing_ok=True)


def _unreadable(url: str, error: Exception) -> UnreadableError:
    reason = " ".join(f"{error}".split()) or type(error).__name__
    return UnreadableError(
        f"{url} cannot be read ({reason}); check that it exists and that this job has the "
        f"credentials and endpoint for it"
    )
