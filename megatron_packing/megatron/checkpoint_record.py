# SPDX-License-Identifier: Apache-2.0
"""The record of a run's streams in the checkpoints that Megatron saves and loads.

Megatron has no hook for what else belongs into a checkpoint. It asks for the name of the file that
announces checkpoints (``latest_checkpointed_iteration.txt``) once all ranks have written one, or
have begun to under ``--async-save``; the record is written then, into the checkpoint's own folder.
So it is there before the checkpoint is announced, and it is removed with its folder.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import megatron_packing.needs.megatron_training  # noqa: F401

import megatron.training.checkpointing as checkpointing
import megatron.training.training as training

from megatron_packing.index.record_file import in_folder, read_text
from megatron_packing.index.stream_record import RECORD, Stream, read_streams, write_streams

_NON_PERSISTENT = "non_persistent"
_TRACKER = "latest_checkpointed_iteration.txt"
_kept: list[Stream] = []


def read_loaded(args: Namespace) -> tuple[list[Stream] | None, str]:
    """The streams of the checkpoint that Megatron has loaded, and the file that says so.

    The record in the folder of the checkpoint counts, else the one beside it, where earlier
    releases kept the only one and where checkpoints without a folder of their own (``--non-
    persistent-ckpt-type local``) have theirs.

    Returns:
        The streams, None where there is no record; and the name of the file, in any case.

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
    """Write the record of ``streams`` into every checkpoint that is saved from now on.

    By the rank that announces checkpoints, the first.
    """
    _kept[:] = streams
    saved = checkpointing.save_checkpoint
    if not hasattr(saved, "writes_record"):
        checkpointing.save_checkpoint = training.save_checkpoint = _writing_the_record(saved)


def _writing_the_record(save: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(save)
    def save_with_record(iteration: int, *args: Any, **kwargs: Any) -> None:
        options = checkpointing.get_args()
        is_passing = bool(kwargs.get("non_persistent_ckpt"))
        if is_passing and options.non_persistent_ckpt_type != "global":
            save(iteration, *args, **kwargs)  # it has no folder of its own
            return
        name_tracker = checkpointing.get_checkpoint_tracker_filename

        def write_and_name_tracker(folder: str) -> str:
            # wandb asks once more, on the last rank, after the checkpoint was announced.
            checkpointing.get_checkpoint_tracker_filename = name_tracker
            if not _is_distributed() or checkpointing.torch.distributed.get_rank() == 0:
                write_streams(
                    checkpointing.get_checkpoint_name(
                        folder, iteration, kwargs.get("release", False), return_base_dir=True
                    ),
                    _kept,
                )
            return str(name_tracker(folder))

        checkpointing.get_checkpoint_tracker_filename = write_and_name_tracker
        try:
            save(iteration, *args, **kwargs)
        finally:
            checkpointing.get_checkpoint_tracker_filename = name_tracker

    save_with_record.writes_record = True  # type: ignore[attr-defined]
    return save_with_record


def _is_distributed() -> bool:
    return bool(checkpointing.torch.distributed.is_initialized())


def _loaded_folders(args: Namespace) -> Iterator[str]:
    """Where the checkpoint is that was loaded, as Megatron's ``_load_base_checkpoint`` chooses."""
    iteration = getattr(checkpointing, "get_loaded_iteration", lambda: None)()
    iteration = args.iteration if iteration is None else iteration
    if getattr(args, "non_persistent_ckpt_type", None) == "global":
        folder = args.non_persistent_global_ckpt_dir or in_folder(args.load, _NON_PERSISTENT)
        newest = _announced(folder)
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


def _announced(folder: str) -> int | None:
    """The iteration of the newest checkpoint in a folder."""
    text = (read_text(in_folder(folder, _TRACKER)) or "").strip()
    return int(text) if text.isdecimal() else None
