# SPDX-License-Identifier: Apache-2.0
"""Refuses places in object stores from which a packed run cannot read, or cannot write to."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from importlib.util import find_spec

from megatron.core.msc_utils import MultiStorageClientFeature

from megatron_packing.megatron.flags import flag_of
from megatron_packing.stream.record_file import CLIENT_SCHEME, is_url

_CHECKPOINTS = ("save", "load", "pretrained_checkpoint", "non_persistent_global_ckpt_dir")
_DATA = ("data_path", "train_data_path", "valid_data_path", "test_data_path")
_LOCAL = ("data_cache_path", "object_storage_cache_path")


def storage_problems(args: Namespace) -> Iterator[str]:
    """What is wrong with the places that the arguments name, a sentence each."""
    for name in _CHECKPOINTS:
        place = getattr(args, name, None)
        if place is None or not is_url(place):
            continue
        if not str(place).startswith(CLIENT_SCHEME):
            yield (
                f"{flag_of(name)} is {place}, for which Megatron would make a folder of this name "
                f"here: give a folder, or {CLIENT_SCHEME}PROFILE/... with --enable-msc"
            )
        elif not MultiStorageClientFeature.is_enabled():
            yield (
                f"{flag_of(name)} is {place}, but Megatron's multi-storage client is off, so it "
                f"would make a folder of this name here: install multi-storage-client and give "
                f"--enable-msc"
            )
    for name in _LOCAL:
        place = getattr(args, name, None)
        if place is not None and is_url(place):
            yield (
                f"{flag_of(name)} is {place}, but what is cached is mapped into memory: give a "
                f"folder of a file system that all nodes share"
            )
    for place in args.packing_indexes:
        if is_url(place):
            yield from _data_problems("packing_indexes", place, args, "a copy of it")
    for name in _DATA:
        words = getattr(args, name, None) or []
        for place in ",".join(words).split(","):
            if is_url(place):
                yield from _data_problems(name, place, args, "its .idx files")


def _data_problems(name: str, place: str, args: Namespace, cached: str) -> Iterator[str]:
    scheme = place.partition("://")[0]
    if scheme not in ("s3", "msc"):
        yield f"{flag_of(name)} names {place}, but Megatron reads s3:// and msc:// only: copy it"
    elif scheme == "msc" and not MultiStorageClientFeature.is_enabled():
        yield (
            f"{flag_of(name)} names {place}, but Megatron's multi-storage client is off: install "
            f"multi-storage-client and give --enable-msc"
        )
    elif scheme == "s3" and find_spec("boto3") is None:
        yield f"{flag_of(name)} names {place}, but boto3 is not installed: pip install boto3"
    elif getattr(args, "object_storage_cache_path", None) is None:
        yield (
            f"{flag_of(name)} names {place}: give --object-storage-cache-path too, a folder that "
            f"all nodes share, for {cached}"
        )
