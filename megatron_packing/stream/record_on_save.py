# SPDX-License-Identifier: Apache-2.0
"""Writes the record of a run's streams into each checkpoint while a trainer saves it.

Neither Megatron nor Megatron-Bridge has a hook for extra files in a checkpoint. In both,
``save_checkpoint`` asks for the name of the tracker file (``latest_checkpointed_iteration.txt``)
once all ranks have written a checkpoint, or have started to with asynchronous saving. The record is
written at that moment, into the checkpoint's own folder. So it exists before the tracker names the
checkpoint, and it is removed with the folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

from megatron_packing.stream.record import Stream, write_streams

_kept: list[Stream] = []


def write_into_checkpoints(
    streams: Sequence[Stream],
    checkpointing: Any,
    callers: Iterable[ModuleType],
    folder_of: Callable[..., str | None],
) -> None:
    """Write the record of ``streams`` into every checkpoint that is saved from now on.

    Args:
        streams: The run's streams.
        checkpointing: The trainer's ``checkpointing`` module, with ``save_checkpoint``.
        callers: Modules that may have imported ``save_checkpoint`` from it.
        folder_of: Function that returns the checkpoint's own folder, or None if it has none. It is
            called with the folder of all checkpoints and the arguments of ``save_checkpoint``.
    """
    _kept[:] = streams
    save = checkpointing.save_checkpoint
    if hasattr(save, "writes_record"):
        return

    @functools.wraps(save)
    def save_with_record(*args: Any, **kwargs: Any) -> None:
        name_tracker = checkpointing.get_checkpoint_tracker_filename

        def write_and_name_tracker(folder: str) -> str:
            # Megatron asks again for wandb, after it wrote the tracker.
            checkpointing.get_checkpoint_tracker_filename = name_tracker
            checkpoint = folder_of(folder, *args, **kwargs)
            if checkpoint is not None and _is_first_rank(checkpointing.torch.distributed):
                write_streams(checkpoint, _kept)
            return str(name_tracker(folder))

        checkpointing.get_checkpoint_tracker_filename = write_and_name_tracker
        try:
            save(*args, **kwargs)
        finally:
            checkpointing.get_checkpoint_tracker_filename = name_tracker

    save_with_record.writes_record = True  # type: ignore[attr-defined]
    for module in (checkpointing, *callers):
        if getattr(module, "save_checkpoint", None) is save:
            module.save_checkpoint = save_with_record


def _is_first_rank(distributed: Any) -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0
