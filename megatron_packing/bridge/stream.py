# SPDX-License-Identifier: Apache-2.0
"""Proves that a resumed run of Bridge goes on with the rows that its checkpoint left off at.

The record of what was read, ``packing_stream.json``, lies in the folder of each checkpoint and
beside them, as the Megatron path keeps it; see ``index.stream_record``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch

from megatron_packing.bridge.checkpoint_record import write_into_checkpoints
from megatron_packing.bridge.splits import Split
from megatron_packing.errors import InputError
from megatron_packing.megatron.endless import count_samples
from megatron_packing.stream.record import (
    RECORD,
    Stream,
    begin_new,
    describe_stream,
    difference,
    go_on,
    read_streams,
    write_streams,
)
from megatron_packing.stream.record_file import is_url

logger = logging.getLogger(__name__)

_TRAIN_STATE = "train_state.pt"
_TRACKERS = (f"latest_{_TRAIN_STATE}", "latest_checkpointed_iteration.txt")
_UNKNOWN = 2**62


@dataclass(frozen=True, slots=True)
class _Resumed:
    """The checkpoint that a run goes on from."""

    folder: Path
    """Of the run's checkpoints."""
    consumed: int
    """Rows that were read until then; ``_UNKNOWN`` where the checkpoint does not say it."""
    own_folder: Path | None = None
    """Of this checkpoint, where it is known."""

    def read_streams(self) -> tuple[list[Stream] | None, Path]:
        """What the checkpoint was trained on and the file that says so.

        The record in its own folder counts, else the one beside it, where earlier releases kept
        the only one.
        """
        folders = [one for one in (self.own_folder, self.folder) if one is not None]
        for folder in folders:
            streams = read_streams(folder)
            if streams is not None:
                return streams, folder / RECORD
        return None, folders[0] / RECORD


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the stream of a run begins."""

    first_sample: int
    """The number of its first sample in the run."""
    first_rows: tuple[int, ...]
    """The row of each index that it begins with: not 0 where the run read some before."""


def keep_stream(cfg: Any, train: Split, seed: int, *, new_stream: bool) -> Beginning:
    """Refuse to go on with other packs than the checkpoint's; keep this run's record.

    Args:
        cfg: Bridge's ``ConfigContainer``, after the checkpoint was loaded.
        train: The training documents.
        seed: Of the order of packs.
        new_stream: Go on with other packs nevertheless.

    Returns:
        Where the stream begins: at the first sample but after a new stream, which begins with the
        first row of the new packs that the run did not read.

    Raises:
        InputError: The packs differ and ``new_stream`` is not set.
    """
    weights = None if len(train.parts) == 1 else train.weights
    stream = describe_stream(train.indexes, seed=seed, weights=weights)
    if _skips_training(cfg):
        return _beginning(stream)
    resumed = _resumed(cfg.checkpoint)
    streams = [stream] if resumed is None else _go_on(resumed, stream, new_stream)
    save = _local(cfg.checkpoint.save)
    if save is not None:
        if not new_stream and (resumed is None or save.resolve() != resumed.folder.resolve()):
            _refuse_other_checkpoints(save, stream)
        if _is_first_rank():
            write_streams(save, streams)
        write_into_checkpoints(streams)
    return _beginning(streams[-1])


def _beginning(stream: Stream) -> Beginning:
    rows = tuple(int(packs["first row"]) for packs in stream["datasets"])
    return Beginning(int(stream["first sample"]), rows)


def _go_on(resumed: _Resumed, stream: Stream, new_stream: bool) -> list[Stream]:
    record, path = resumed.read_streams()
    if record is None:
        return _go_on_without_record(resumed, path, stream, new_stream)
    streams = go_on(record, stream, resumed.consumed)
    if streams is not None:
        return streams
    if not new_stream:
        raise InputError(
            f"{path} says that the checkpoint was trained on other packs "
            f"({difference(record[-1], stream)}), so the rows that it consumed are not the first "
            f"of these; give use_packed_data what it was trained with, another folder for "
            f"cfg.checkpoint.load and save, or new_stream=True to go on with the new packs"
        )
    if resumed.consumed == _UNKNOWN:
        raise _unknown_rows(resumed)
    streams = begin_new(record, stream, resumed.consumed, count_samples)
    if _is_first_rank():
        rows = " and ".join(
            f"row {packs['first row']:,} of {packs['packs']:,}" for packs in streams[-1]["datasets"]
        )
        logger.warning(
            f"new_stream: after {resumed.consumed:,} rows of other packs the run goes on with "
            f"{rows}"
        )
    return streams


def _go_on_without_record(
    resumed: _Resumed, path: Path, stream: Stream, new_stream: bool
) -> list[Stream]:
    if resumed.consumed == 0:
        return [stream]
    if new_stream:
        if resumed.consumed == _UNKNOWN:
            raise _unknown_rows(resumed)
        return [{**stream, "first sample": resumed.consumed}]
    if resumed.consumed != _UNKNOWN:
        raise InputError(
            f"{path} does not exist, so nothing says which rows the checkpoint was trained on; "
            f"copy it from where the checkpoint was saved, or give new_stream=True to begin the "
            f"packs of this run with their first rows"
        )
    if _is_first_rank():
        logger.warning(
            f"{path} does not exist, so nothing proves that the packs of this run are those of its "
            f"checkpoint, which does not say what it consumed"
        )
    return [stream]


def _unknown_rows(resumed: _Resumed) -> InputError:
    return InputError(
        f"new_stream is set, but the checkpoint in {resumed.folder} does not say how many rows it "
        f"consumed; resume from a checkpoint of Megatron-Bridge that has {_TRAIN_STATE}"
    )


def _refuse_other_checkpoints(folder: Path, stream: Stream) -> None:
    """The record of a folder is that of all its checkpoints, so they are of one run."""
    record = read_streams(folder) if any((folder / name).exists() for name in _TRACKERS) else None
    if record is not None and go_on(record, stream, _UNKNOWN) is None:
        raise InputError(
            f"cfg.checkpoint.save, {folder}, holds checkpoints that were trained on other packs "
            f"({difference(record[-1], stream)}); give another folder, or new_stream=True"
        )


def _resumed(checkpoint: Any) -> _Resumed | None:
    """The checkpoint whose counts Bridge took over; None for a run that begins."""
    load = _local(checkpoint.load)
    if load is None or checkpoint.finetune:  # which is set where only weights are loaded
        return None
    if (load / _TRAIN_STATE).exists():  # the folder of one iteration
        return _read_checkpoint(load.parent, load / _TRAIN_STATE)
    found = [_read_checkpoint(load, path) for path in _train_states(checkpoint, load)]
    if not found and any((load / name).exists() for name in _TRACKERS):
        return _Resumed(load, _UNKNOWN)
    return max(found, key=lambda one: one.consumed, default=None)


def _train_states(checkpoint: Any, load: Path) -> list[Path]:
    """What says how far the checkpoints got that Bridge may go on from; it takes the last one."""
    step = getattr(checkpoint, "ckpt_step", None)
    if step is not None:
        return [load / f"iter_{step:07d}" / _TRAIN_STATE]
    folders = [load]
    if getattr(checkpoint, "non_persistent_ckpt_type", None) == "global":
        other = getattr(checkpoint, "non_persistent_global_ckpt_dir", None)
        folders.append(Path(other) if other else load / "non_persistent")
    paths = [folder / _TRACKERS[0] for folder in folders]
    return [path for path in paths if path.exists()]


def _read_checkpoint(folder: Path, path: Path) -> _Resumed:
    """A checkpoint of the run in ``folder``, by its state of training or a copy beside it."""
    own = path.parent if path.name == _TRAIN_STATE else None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        consumed, step = int(state["consumed_train_samples"]), int(state["step"])
    except (KeyError, OSError, RuntimeError, TypeError, ValueError):
        return _Resumed(folder, _UNKNOWN, own)  # Bridge says what is wrong with its own files
    return _Resumed(folder, consumed, own or path.parent / f"iter_{step:07d}")


def _local(folder: Any) -> Path | None:
    """A folder of this machine; object stores (``msc://``) keep no record."""
    return None if not folder or is_url(folder) else Path(folder)


def _skips_training(cfg: Any) -> bool:
    settings = getattr(cfg, "validation", None) or cfg.train
    return bool(getattr(settings, "skip_train", False))


def _is_first_rank() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
