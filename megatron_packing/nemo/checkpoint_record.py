# SPDX-License-Identifier: Apache-2.0
"""The record of a run's streams in the checkpoints that Bridge saves.

Bridge has no hook for what else belongs into a checkpoint. Its ``save_checkpoint`` asks for the
name of the file that announces checkpoints once all ranks have written one, or have begun to under
``async_save``; the record is written then, into the checkpoint's own folder, by the first rank.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_packing.index.stream_record import Stream, write_streams

_SAVES = "megatron.bridge.training.checkpointing"
# Bridge 0.3 imports the function into the modules that call it.
_CALLERS = ("megatron.bridge.training.train", "megatron.bridge.training.pretrain")
_kept: list[Stream] = []


def write_into_checkpoints(streams: Sequence[Stream]) -> None:
    """Write the record of ``streams`` into every checkpoint that is saved from now on."""
    _kept[:] = streams
    checkpointing, *callers = map(importlib.import_module, (_SAVES, *_CALLERS))
    saved = checkpointing.save_checkpoint
    if hasattr(saved, "writes_record"):
        return
    writing = _writing_the_record(checkpointing, saved)
    for module in (checkpointing, *callers):
        if getattr(module, "save_checkpoint", None) is saved:
            module.save_checkpoint = writing  # type: ignore[attr-defined]


def _writing_the_record(checkpointing: Any, save: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(save)
    def save_with_record(state: Any, *args: Any, **kwargs: Any) -> None:
        name_tracker = checkpointing.get_checkpoint_tracker_filename

        def write_and_name_tracker(folder: str) -> str:
            checkpoint = Path(folder) / f"iter_{int(state.train_state.step):07d}"
            if checkpoint.is_dir():  # local checkpoints and object stores have none
                write_streams(checkpoint, _kept)
            return str(name_tracker(folder))

        checkpointing.get_checkpoint_tracker_filename = write_and_name_tracker
        try:
            save(state, *args, **kwargs)
        finally:
            checkpointing.get_checkpoint_tracker_filename = name_tracker

    save_with_record.writes_record = True  # type: ignore[attr-defined]
    return save_with_record
