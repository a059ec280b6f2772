# SPDX-License-Identifier: Apache-2.0
"""Writes packing_stream.json into Megatron's checkpoints, and reads it from the loaded one."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import megatron_packing.needs.megatron_training  # noqa: F401

import megatron.training.checkpointing as checkpointing
import megatron.training.training as training

from megatron_packing.megatron.versions import flag_value, loaded_iteration
from megatron_packing.stream import record_on_save
from megatron_packing.stream.record import RECORD, Stream, read_streams
from megatron_packing.stream.record_file import in_folder, read_text

_NON_PERSISTENT = "non_persistent"
_TRACKER = "latest_checkpointed_iteration.txt"


def read_loaded(args: Namespace) -> tuple[list[Stream] | None, str]:
    """Return the streams of the checkpoint that Megatron loaded, and the path of their record.

    The record in the checkpoint's own folder takes precedence over the one beside that folder.
    Earlier releases wrote only the latter, and so do checkpoints without a folder of their own
    (``--non-persistent-ckpt-type local``).

    Returns:
        The streams, or None if there is no record; and the path where the record is expected.

    Raises:
        InputError: A record is damaged.
    """
    beside = str(args.load or args.save or "")
    if not beside:
        return None, RECORD
    folders = list(_loaded_folders(args))
    for folder in (*folders, beside):
        streams = read_streams(folder)
        if streams is not None:
            return streams, in_folder(folder, RECORD)
    return None, in_folder((folders or [beside])[0], RECORD)


def write_into_checkpoints(streams: Sequence[Stream]) -> None:
    """Write the record of ``streams`` into every checkpoint that is saved from now on."""
    record_on_save.write_into_checkpoints(streams, checkpointing, [training], _folder_of)


def _folder_of(
    folder: str,
    iteration: int,
    *_: Any,
    non_persistent_ckpt: bool = False,
    release: bool = False,
    **__: Any,
) -> str | None:
    if non_persistent_ckpt and checkpointing.get_args().non_persistent_ckpt_type != "global":
        return None
    return str(checkpointing.get_checkpoint_name(folder, iteration, release, return_base_dir=True))


def _loaded_folders(args: Namespace) -> Iterator[str]:
    """Folders that may hold the loaded checkpoint, in the order of ``_load_base_checkpoint``."""
    iteration = loaded_iteration(checkpointing)
    iteration = args.iteration if iteration is None else iteration
    if flag_value(args, "non_persistent_ckpt_type") == "global":
        folder = args.non_persistent_global_ckpt_dir or in_folder(args.load, _NON_PERSISTENT)
        newest = _newest_iteration(folder)
        if newest is not None and newest >= iteration:
            yield _folder(folder, newest)
            return
    if not args.load:
        return
    if iteration == 0:
        yield in_folder(args.load, "release")
    yield _folder(args.load, iteration)


def _folder(folder: str | Path, iteration: int) -> str:
    return in_folder(folder, f"iter_{iteration:07d}")


def _newest_iteration(folder: str) -> int | None:
    """Return the iteration of the newest checkpoint in a folder, or None."""
    text = (read_text(in_folder(folder, _TRACKER)) or "").strip()
    return int(text) if text.isdecimal() else None
