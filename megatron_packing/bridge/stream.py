# SPDX-License-Identifier: Apache-2.0
"""Checks that a resumed Bridge run continues with exactly the rows after its checkpoint.

The record ``packing_stream.json`` is in the folder of each checkpoint and beside these folders, as
for Megatron; see ``stream.record``.
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
from megatron_packing.bridge.versions import skips_training
from megatron_packing.errors import InputError
from megatron_packing.first_rank import is_rank_0
from megatron_packing.megatron.endless import count_samples
from megatron_packing.stream.even_order import EvenSettings
from megatron_packing.stream.record import (
    RECORD,
    Stream,
    begin_new,
    describe_stream,
    difference,
    even_settings_of,
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
    """The checkpoint that a run resumes from."""

    folder: Path
    """The folder of the run's checkpoints."""
    consumed: int
    """Rows read before the checkpoint; ``_UNKNOWN`` if the checkpoint does not say."""
    own_folder: Path | None = None
    """The checkpoint's own folder, if it is known."""

    def read_streams(self) -> tuple[list[Stream] | None, Path]:
        """Return the checkpoint's streams and the path of their record.

        The record in the checkpoint's own folder takes precedence over the one beside it, which
        earlier releases wrote.
        """
        folders = [one for one in (self.own_folder, self.folder) if one is not None]
        for folder in folders:
            streams = read_streams(folder)
            if streams is not None:
                return streams, folder / RECORD
        return None, folders[0] / RECORD


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the stream of a run starts."""

    first_sample: int
    """The index of its first sample in the run."""
    first_rows: tuple[int, ...]
    """The first row of each index; greater than 0 if the run already read rows of it."""


def recorded_order(cfg: Any) -> EvenSettings | None:
    """Return the even order that the checkpoint was trained in, if there was one.

    With it, a run that resumes with other ranks or another global batch keeps its order of packs.

    Args:
        cfg: Bridge's ``ConfigContainer``, after it was validated.
    """
    resumed = None if skips_training(cfg) else _resumed(cfg.checkpoint)
    streams = None if resumed is None else resumed.read_streams()[0]
    return None if streams is None else even_settings_of(streams[-1])


def keep_stream(
    cfg: Any, train: Split, seed: int, *, order: EvenSettings | None = None, new_stream: bool
) -> Beginning:
    """Refuse packs that differ from the checkpoint's, and write this run's record.

    Args:
        cfg: Bridge's ``ConfigContainer``, after the checkpoint was loaded.
        train: The training documents.
        seed: The seed of the order of packs.
        order: The even order of the packs; None for the random one.
        new_stream: Accept other packs.

    Returns:
        Where the stream starts: at the run's first sample, or for a new stream at the first unread
        row of each index.

    Raises:
        InputError: The packs differ and ``new_stream`` is not set.
    """
    weights = None if len(train.parts) == 1 else train.weights
    stream = describe_stream(train.indexes, seed=seed, weights=weights, order=order)
    if skips_training(cfg):
        return _beginning(stream)
    resumed = _resumed(cfg.checkpoint)
    streams = [stream] if resumed is None else _go_on(resumed, stream, new_stream)
    save = _local(cfg.checkpoint.save)
    if save is not None:
        if not new_stream and (resumed is None or save.resolve() != resumed.folder.resolve()):
            _refuse_other_checkpoints(save, stream)
        if is_rank_0():
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
            f"({difference(record[-1], stream)}), so it did not consume the first rows of these "
            f"packs; give use_packed_data the packs that it was trained with, another folder for "
            f"cfg.checkpoint.load and save, or new_stream=True to continue with the new packs"
        )
    if resumed.consumed == _UNKNOWN:
        raise _unknown_rows(resumed)
    streams = begin_new(record, stream, resumed.consumed, count_samples)
    if is_rank_0():
        rows = " and ".join(
            f"row {packs['first row']:,} of {packs['packs']:,}" for packs in streams[-1]["datasets"]
        )
        logger.warning(
            f"new_stream: after {resumed.consumed:,} rows of other packs the run continues with "
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
            f"{path} does not exist, so it is unknown which rows the checkpoint was trained on; "
            f"copy it from where the checkpoint was saved, or give new_stream=True to start the "
            f"packs of this run at their first rows"
        )
    if is_rank_0():
        logger.warning(
            f"{path} does not exist and the checkpoint does not say how many rows it consumed, so "
            f"the packs of this run may differ from the checkpoint's"
        )
    return [stream]


def _unknown_rows(resumed: _Resumed) -> InputError:
    return InputError(
        f"new_stream is set, but the checkpoint in {resumed.folder} does not say how many rows it "
        f"consumed; resume from a Megatron-Bridge checkpoint that has {_TRAIN_STATE}"
    )


def _refuse_other_checkpoints(folder: Path, stream: Stream) -> None:
    """Refuse to save into a folder with checkpoints of other packs; it has one record for all."""
    record = read_streams(folder) if any((folder / name).exists() for name in _TRACKERS) else None
    if record is not None and go_on(record, stream, _UNKNOWN) is None:
        raise InputError(
            f"cfg.checkpoint.save is {folder}, which holds checkpoints of a run on other packs "
            f"({difference(record[-1], stream)}); give another folder, or new_stream=True"
        )


def _resumed(checkpoint: Any) -> _Resumed | None:
    """Return the checkpoint that Bridge resumes from; None for a new run."""
    load = _local(checkpoint.load)
    if load is None or checkpoint.finetune:  # finetune loads only weights
        return None
    if (load / _TRAIN_STATE).exists():  # the folder of one iteration
        return _read_checkpoint(load.parent, load / _TRAIN_STATE)
    found = [_read_checkpoint(load, path) for path in _train_states(checkpoint, load)]
    if not found and any((load / name).exists() for name in _TRACKERS):
        return _Resumed(load, _UNKNOWN)
    return max(found, key=lambda one: one.consumed, default=None)


def _train_states(checkpoint: Any, load: Path) -> list[Path]:
    """Return the train states of the checkpoints that Bridge may resume from; it takes the last."""
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
    """Read a checkpoint of the run in ``folder`` from its train state or a copy of it."""
    own = path.parent if path.name == _TRAIN_STATE else None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        consumed, step = int(state["consumed_train_samples"]), int(state["step"])
    except (KeyError, OSError, RuntimeError, TypeError, ValueError):
        return _Resumed(folder, _UNKNOWN, own)  # Bridge reports damage to its own files
    return _Resumed(folder, consumed, own or path.parent / f"iter_{step:07d}")


def _local(folder: Any) -> Path | None:
    """Return a local folder, or None: there is no record in object stores (``msc://``)."""
    return None if not folder or is_url(folder) else Path(folder)
