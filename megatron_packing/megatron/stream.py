# SPDX-License-Identifier: Apache-2.0
"""Checks that a resumed run continues with exactly the samples after its checkpoint.

Sample i of a training dataset depends only on its pack indexes, the seed and i, and Megatron counts
samples. So a run continues correctly if its datasets are unchanged. ``packing_stream.json``, in
every checkpoint and beside them, records the datasets; see ``stream.record``.
"""

from __future__ import annotations

import logging
import os
from argparse import Namespace

import megatron_packing.needs.megatron_training  # noqa: F401

import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.training import print_rank_0

from megatron_packing.errors import InputError
from megatron_packing.megatron.checkpoint_record import read_loaded, write_into_checkpoints
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.endless import EndlessDataset, count_samples
from megatron_packing.megatron.versions import flag_value
from megatron_packing.stream.even_order import EvenSettings
from megatron_packing.stream.record import (
    Stream,
    begin_new,
    describe_stream,
    difference,
    even_settings_of,
    go_on,
    holds_digests,
    read_streams,
    write_streams,
)
from megatron_packing.stream.record_file import in_folder, is_url, read_text

logger = logging.getLogger(__name__)


def recorded_alignment(args: Namespace, smallest: int) -> int | None:
    """Return the alignment of the packs that the checkpoint was trained on.

    With it, a run that started with context parallelism keeps its packs without it. Returns None if
    there is no record or the alignment is not a multiple of ``smallest``; ``open_stream`` then
    raises an error.
    """
    streams = read_loaded(args)[0] if _resumes(args) else None
    if streams is None:
        return None
    alignments = {packs["alignment"] for packs in streams[-1]["datasets"]}
    fits = len(alignments) == 1 and not next(iter(alignments)) % smallest
    return alignments.pop() if fits else None


def recorded_order(args: Namespace) -> EvenSettings | None:
    """Return the even order that the checkpoint was trained in, if there was one.

    With it, a run that resumes with other ranks or another global batch keeps its order of packs.
    """
    streams = read_loaded(args)[0] if _resumes(args) and not args.packing_new_stream else None
    return None if streams is None else even_settings_of(streams[-1])


def open_stream(dataset: PackedDataset | BlendedDataset, args: Namespace) -> EndlessDataset:
    """Return the samples that this run trains on, starting after its checkpoint.

    Also writes the record of the run's streams to ``--save`` and into every checkpoint.

    Args:
        dataset: The training dataset. Its ``first_row`` is set if the run already read rows of it.
        args: Megatron's arguments, with the consumed samples of a loaded checkpoint.

    Raises:
        InputError: The datasets differ from the checkpoint's, or there is no record of them, and
            neither ``--packing-new-stream`` nor ``--packing-resume-without-record`` was given.
    """
    parts = dataset.datasets if isinstance(dataset, BlendedDataset) else [dataset]
    now = describe_stream(
        [part.index for part in parts],
        seed=dataset.config.random_seed,
        weights=getattr(dataset, "weights", None),
        order=dataset.config.packing_even_order,
    )
    streams = _resume(now, args) if _resumes(args) else [now]
    stream = streams[-1]
    _announce(stream, parts, args)
    for part, packs in zip(parts, stream["datasets"], strict=True):
        part.first_row = packs["first row"]
    if args.save:
        _keep(streams, args)
    # Megatron restarts its sample count at the last of --phase-transition-iterations.
    before_phase = args.consumed_train_samples - first_sample_of_run(args)
    return EndlessDataset(dataset, offset=before_phase - stream["first sample"])


def first_sample_of_run(args: Namespace) -> int:
    """Return Megatron's index of the first sample that this run trains on."""
    transitions = flag_value(args, "phase_transition_iterations")
    if not transitions:
        return int(args.consumed_train_samples)
    last = max(iteration for iteration in (0, *transitions) if iteration <= args.iteration)
    return int((args.iteration - last) * args.global_batch_size)


def _resumes(args: Namespace) -> bool:
    """Whether the run resumes after consumed samples; with --finetune Megatron counts from 0."""
    return bool(args.consumed_train_samples > 0)


def _resume(now: Stream, args: Namespace) -> list[Stream]:
    """Return the streams of a run that continues with ``now``."""
    consumed = args.consumed_train_samples
    was, path = read_loaded(args)
    if was is None:
        if args.packing_new_stream:
            return [{**now, "first sample": consumed}]
        if not args.packing_resume_without_record:
            raise InputError(
                f"{path} does not exist, so it is unknown which rows the checkpoint's "
                f"{consumed:,} samples were; copy it from where the checkpoint was saved, or give "
                f"--packing-resume-without-record if the data is the same and only the record was "
                f"lost, or --packing-new-stream to start the data at its first row"
            )
        logger.warning(
            f"{path} does not exist: with --packing-resume-without-record this run assumes that "
            f"its data is the checkpoint's and continues with sample {consumed:,}"
        )
        return [now]
    if not holds_digests(was[-1]):
        logger.warning(
            f"{path} was written by an earlier release without digests of the packs, so an index "
            f"that was rebuilt with the same settings but other packs is not detected"
        )
    streams = go_on(was, now, consumed)
    if streams is None and args.packing_new_stream:
        return begin_new(was, now, consumed, count_samples)
    if streams is None:
        last = [stream for stream in was if stream["first sample"] < consumed][-1]
        raise InputError(
            f"{path} says that the checkpoint was trained on other packs "
            f"({difference(last, now)}), so this run would not continue where it ended; give the "
            f"data that it was trained with, or --packing-new-stream to continue with the new data"
        )
    return streams


def _announce(stream: Stream, parts: list[PackedDataset], args: Namespace) -> None:
    """Log the first rows of a stream that starts in the middle of a run."""
    begins = stream["first sample"]
    if not _resumes(args) or begins == 0:
        return
    rows = "; ".join(
        f"{part.corpus.prefix} starts at its first row"
        if packs["first row"] == 0
        else f"{part.corpus.prefix} continues at its row {packs['first row']:,} (rows count from "
        f"0), the first unread one"
        for part, packs in zip(parts, stream["datasets"], strict=True)
    )
    print_rank_0(f"> the data changed at sample {begins:,} of this run: {rows}")


def _keep(streams: list[Stream], args: Namespace) -> None:
    """Write the record to ``--save``; refuse a folder with checkpoints of other packs."""
    folder = str(args.save)
    resumes_here = _resumes(args) and _is_same(folder, args.load)
    has_checkpoints = read_text(in_folder(folder, "latest_checkpointed_iteration.txt")) is not None
    was = read_streams(folder) if has_checkpoints and not resumes_here else None
    if was is not None and not args.packing_new_stream:
        other = difference(was[-1], streams[-1])
        if other is None and [s["first sample"] for s in was] != [
            s["first sample"] for s in streams
        ]:
            other = "its data changed at other samples"
        if other is not None:
            raise InputError(
                f"--save {folder} holds checkpoints of a run on other packs ({other}): "
                f"give another folder, or --packing-new-stream"
            )
    write_into_checkpoints(streams)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        write_streams(folder, streams)


def _is_same(folder: str, other: str | None) -> bool:
    if other is None or is_url(folder) or is_url(other):
        return folder.rstrip("/") == str(other).rstrip("/")
    return os.path.realpath(folder) == os.path.realpath(other)
