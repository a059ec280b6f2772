# SPDX-License-Identifier: Apache-2.0
"""Refuses object store URLs that a packed run cannot read or write."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from importlib.util import find_spec

from megatron.core.msc_utils import MultiStorageClientFeature

from megatron_packing.megatron.flags import flag_of
from megatron_packing.megatron.versions import flag_value
from megatron_packing.stream.record_file import CLIENT_SCHEME, is_url

_CHECKPOINTS = ("save", "load", "pretrained_checkpoint", "non_persistent_global_ckpt_dir")
_DATA = ("data_path", "train_data_path", "valid_data_path", "test_data_path")
_LOCAL = ("data_cache_path", "object_storage_cache_path")


def storage_problems(args: Namespace) -> Iterator[str]:
    """Yield one sentence for each path or URL argument that is wrong."""
    for name in _CHECKPOINTS:
        url = getattr(args, name, None)
        if url is None or not is_url(url):
            continue
        if not str(url).startswith(CLIENT_SCHEME):
            yield (
                f"{flag_of(name)} is {url}, but Megatron would create a local folder of that "
                f"name: give a folder, or {CLIENT_SCHEME}PROFILE/... with --enable-msc"
            )
        elif not MultiStorageClientFeature.is_enabled():
            yield (
                f"{flag_of(name)} is {url}, but Megatron's multi-storage client is off, so it "
                f"would create a local folder of that name: install multi-storage-client and give "
                f"--enable-msc"
            )
    for name in _LOCAL:
        url = getattr(args, name, None)
        if url is not None and is_url(url):
            yield (
                f"{flag_of(name)} is {url}, but cached files are memory-mapped: give a folder in "
                f"a file system that all nodes share"
            )
    for url in args.packing_indexes:
        if is_url(url):
            yield from _data_problems("packing_indexes", url, args, "a copy of it")
    for name in _DATA:
        entries = getattr(args, name, None) or []
        for url in ",".join(entries).split(","):
            if is_url(url):
                yield from _data_problems(name, url, args, "its .idx files")


def _data_problems(name: str, url: str, args: Namespace, cached: str) -> Iterator[str]:
    scheme = url.partition("://")[0]
    if scheme not in ("s3", "msc"):
        yield f"{flag_of(name)} names {url}, but Megatron reads only s3:// and msc:// URLs: copy it"
    elif scheme == "msc" and not MultiStorageClientFeature.is_enabled():
        yield (
            f"{flag_of(name)} names {url}, but Megatron's multi-storage client is off: install "
            f"multi-storage-client and give --enable-msc"
        )
    elif scheme == "s3" and find_spec("boto3") is None:
        yield f"{flag_of(name)} names {url}, but boto3 is not installed: pip install boto3"
    elif flag_value(args, "object_storage_cache_path") is None:
        yield (
            f"{flag_of(name)} names {url}: give --object-storage-cache-path too, a folder that "
            f"all nodes share, for {cached}"
        )
