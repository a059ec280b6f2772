# SPDX-License-Identifier: Apache-2.0
"""Writes packing_stream.json into the checkpoints that Bridge saves."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_packing.stream import record_on_save
from megatron_packing.stream.record import Stream

_SAVES = "megatron.bridge.training.checkpointing"
# Bridge 0.3 imports save_checkpoint into the modules that call it.
_CALLERS = ("megatron.bridge.training.train", "megatron.bridge.training.pretrain")


def write_into_checkpoints(streams: Sequence[Stream]) -> None:
    """Write the record of ``streams`` into every checkpoint that is saved from now on."""
    checkpointing, *callers = map(importlib.import_module, (_SAVES, *_CALLERS))
    record_on_save.write_into_checkpoints(streams, checkpointing, callers, _folder_of)


def _folder_of(folder: str, state: Any, *_: Any, **__: Any) -> str | None:
    checkpoint = Path(folder) / f"iter_{int(state.train_state.step):07d}"
    return (
        str(checkpoint) if checkpoint.is_dir() else None
    )  # none for local checkpoints and object stores
