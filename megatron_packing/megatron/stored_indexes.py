# SPDX-License-Identifier: Apache-2.0
"""Copies pack indexes from ``s3://`` and ``msc://`` into ``--object-storage-cache-path``.

The arrays of an index are memory-mapped, so its whole folder is copied. The copy is named by the
hash of the manifest: if the index is replaced in the store, the new one gets its own folder and
running jobs keep the old one.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path

from megatron_packing.corpus.storage import is_remote
from megatron_packing.errors import InputError
from megatron_packing.files.regular_file import read_json_object
from megatron_packing.files.whole import new_folder, sync
from megatron_packing.first_rank import on_first_rank
from megatron_packing.index.json_fields import ADVICE
from megatron_packing.index.manifest import MANIFEST, read_arrays
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.megatron.object_storage import ObjectStore

logger = logging.getLogger(__name__)

_FOLDER = "stored_pack_indexes"

_copied: dict[tuple[str, str], Path] = {}
"""The local folders of copied indexes, by cache folder and URL."""


def local_index(folder_or_url: str, cache: str | None) -> Path:
    """Return the local folder of a pack index; rank 0 copies it from an object store if needed.

    Args:
        folder_or_url: A folder, or its URL.
        cache: ``--object-storage-cache-path``: a folder that all ranks share.

    Raises:
        InputError: The store cannot be read, the pack index there is incomplete, or no cache was
            given.
    """
    if not is_remote(folder_or_url):
        return Path(folder_or_url)
    if cache is None:
        raise InputError(
            f"{folder_or_url} is in an object store: give --object-storage-cache-path, a folder "
            f"that all nodes share, for a copy of it"
        )
    url = folder_or_url.rstrip("/")
    if (cache, url) not in _copied:
        folder = on_first_rank(
            f"copy {url}", lambda: str(_copy(url, Path(cache) / _FOLDER)), f"copy {url}"
        )
        _copied[cache, url] = Path(folder)
    return _copied[cache, url]


def _copy(url: str, parent: Path) -> Path:
    """Copy an index unless it is cached, and compare its arrays with the manifest's hashes."""
    store = ObjectStore.of(url)
    if store.look_at(f"{url}/{MANIFEST}") is None:
        raise InputError(
            f"{url} is not a pack index: there is no {url}/{MANIFEST}; give the URL of a pack index"
        )
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=parent) as temporary:
        manifest = Path(temporary) / MANIFEST
        store.download(f"{url}/{MANIFEST}", manifest)
        content = manifest.read_bytes()
        folder = parent / hashlib.sha256(content).hexdigest()[:32]
        if folder.exists():
            return folder
        try:
            arrays = read_arrays(manifest, read_json_object(manifest, ADVICE).get("arrays"))
        except InputError as error:
            raise _wrong(url, error, manifest.parent) from error
    try:
        with new_folder(folder) as unfinished:
            for name in arrays:
                store.download(f"{url}/{name}.npy", unfinished / f"{name}.npy")
                sync(unfinished / f"{name}.npy")
            (unfinished / MANIFEST).write_bytes(content)
            sync(unfinished / MANIFEST)
            try:
                PackIndex.open(unfinished).check_arrays()
            except InputError as error:
                raise _wrong(url, error, unfinished) from error
    except InputError:
        if not folder.exists():  # another run may have copied the same index meanwhile
            raise
    logger.info(f"copied the pack index {url} to {folder}")
    return folder


def _wrong(url: str, error: InputError, folder: Path) -> InputError:
    """Return the same error with the URL in place of its local copy."""
    return InputError(f"{error}".replace(str(folder), url))
