# SPDX-License-Identifier: Apache-2.0
"""Shows at each log interval what packing does: in the log, TensorBoard and Weights & Biases.

The figures are those of the steps since the last log, of all ranks. See docs/megatron.md.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.training import (
    get_args,
    get_tensorboard_writer,
    get_timers,
    get_wandb_writer,
    print_rank_last,
    training,
)
from megatron.training.training import num_floating_point_operations

from megatron_packing.errors import InputError
from megatron_packing.flops.model import WorkModel
from megatron_packing.megatron.balance import work_model_of
from megatron_packing.megatron.live_counts import IntervalCounts, trained_rows
from megatron_packing.megatron.start_report import parts_of


@dataclass(frozen=True, slots=True)
class EpochPart:
    """How the samples of a run go through one corpus."""

    name: str
    rows: int
    """Of an epoch."""
    weight: float
    """Its share of the samples."""
    first_row: int
    """The row that its part of the stream began with."""
    first_sample: int
    """The sample of the run that the stream began with."""

    def epochs(self, samples: int) -> float:
        """Return the epochs that are read after so many samples of the run."""
        return (self.first_row + self.weight * (samples - self.first_sample)) / self.rows


def epoch_parts(stream: Any, first_sample: int) -> list[EpochPart]:
    """Return the parts of a training stream.

    Args:
        stream: What ``open_stream`` returned.
        first_sample: The sample of the run that it begins with.
    """
    dataset = stream.dataset
    weights = dataset.weights if isinstance(dataset, BlendedDataset) else [1.0]
    parts = parts_of(dataset)
    names = [Path(str(part.corpus.prefix)).name for part in parts]
    if len(set(names)) < len(names):
        names = [str(part.corpus.prefix) for part in parts]
    return [
        EpochPart(
            name=name,
            rows=len(part.index),
            weight=float(weight),
            first_row=part.first_row,
            first_sample=first_sample,
        )
        for name, part, weight in zip(names, parts, weights, strict=True)
    ]


def figures_of(
    counts: IntervalCounts,
    seconds: float,
    *,
    positions: int,
    gpus: int,
    operations: float,
) -> dict[str, float]:
    """Return the figures of some steps, by their names in TensorBoard.

    Args:
        counts: What the steps held.
        seconds: What they took.
        positions: Positions of a row.
        gpus: Ranks of the run.
        operations: Floating-point operations of the model on the real tokens of the steps.
    """
    by_second = counts.tokens / seconds
    mean_work = counts.work / counts.ranks
    return {
        "packing/tokens-per-second": by_second,
        "packing/tokens-per-second-per-gpu": by_second / gpus,
        "packing/tflops-per-gpu": operations / seconds / gpus / 1e12,
        "packing/utilisation": counts.tokens / (counts.rows * positions),
        "packing/documents-per-step": counts.documents / counts.steps,
        "packing/trained-tokens-per-step": counts.trained / counts.steps,
        "packing/rank-imbalance": counts.slowest_work / mean_work,
        "packing/sync-imbalance": counts.slowest_row_work / mean_work,
    }


def describe_figures(figures: Mapping[str, float], iteration: int) -> str:
    """Return the line of the log."""
    of = {name.removeprefix("packing/"): value for name, value in figures.items()}
    epochs = ", ".join(
        f"{name.replace('epoch-of-', 'epoch of ')} {value:.4f}"
        for name, value in of.items()
        if name.startswith("epoch")
    )
    return (
        f"> packing, step {iteration:,}: {of['tokens-per-second']:,.0f} real tokens/s "
        f"({of['tokens-per-second-per-gpu']:,.0f} per GPU, {of['tflops-per-gpu']:.2f} TFLOP/s), "
        f"{of['utilisation']:.1%} used, {of['documents-per-step']:,.1f} documents and "
        f"{of['trained-tokens-per-step']:,.1f} trained tokens a step, slowest rank "
        f"{of['rank-imbalance']:.3f} of the mean, {of['sync-imbalance']:.3f} if ranks meet in "
        f"each micro-batch, {epochs}"
    )


def show_live_figures(stream: Any, args: Namespace, first_sample: int) -> None:
    """Let Megatron's ``training_log`` show the figures, for the rest of the process.

    Args:
        stream: What ``open_stream`` returned; None on ranks that do not read.
        args: Megatron's arguments, with the consumed samples of a loaded checkpoint.
        first_sample: The sample of ``stream`` that training reads first.
    """
    if hasattr(training.train, "shows_packing"):  # another chunk of this rank called it
        return
    parts: list[EpochPart] = []
    if stream is not None:
        begins = args.consumed_train_samples - first_sample - stream.offset
        parts = epoch_parts(stream, begins)
    train, log = training.train, training.training_log

    @functools.wraps(train)
    def train_and_count(*given: Any, **more: Any) -> Any:
        told = [parts]
        if torch.distributed.get_world_size() > 1:  # the last rank logs and may not read
            torch.distributed.broadcast_object_list(told, 0)
        parts[:] = told[0]
        trained_rows.clear()
        return train(*given, **more)

    @functools.wraps(log)
    def log_and_show(
        loss_dict: Any, total_loss_dict: Any, learning_rate: Any, iteration: int, *a: Any, **k: Any
    ) -> Any:
        args = get_args()
        trained_rows.end_step(get_num_microbatches())
        is_first = bool(k.get("is_first_iteration"))
        is_logged = iteration % args.log_interval == 0
        # Megatron's log resets the timer, but not after the first step, whose time it shows twice.
        seconds = get_timers()("interval-time").elapsed(reset=False) if is_logged else 0.0
        result = log(loss_dict, total_loss_dict, learning_rate, iteration, *a, **k)
        if is_logged:
            _show(args, iteration, seconds, parts)
            if not is_first:
                trained_rows.clear()
        return result

    train_and_count.shows_packing = True  # type: ignore[attr-defined]
    training.train, training.training_log = train_and_count, log_and_show


def _show(args: Namespace, iteration: int, seconds: float, parts: list[EpochPart]) -> None:
    try:
        work = work_model_of(args)
    except InputError:  # of a shape whose operations are not counted; its imbalance is by length
        work = WorkModel(per_token=1, per_squared_length=0)
    counts = trained_rows.reduce(args.seq_length, work)
    if counts is None:  # a forward step of the script's own does not count
        return
    operations = num_floating_point_operations(
        args,
        counts.rows,
        seqlen_squared_sum_in_batch=counts.squares,
        total_real_tokens_in_batch=counts.tokens,
    )
    figures = figures_of(
        counts, seconds, positions=args.seq_length, gpus=args.world_size, operations=operations
    )
    for part in parts:
        name = "packing/epoch" if len(parts) == 1 else f"packing/epoch-of-{part.name}"
        figures[name] = part.epochs(args.consumed_train_samples)
    print_rank_last(describe_figures(figures, iteration))
    writer, wandb_writer = get_tensorboard_writer(), get_wandb_writer()
    if writer:
        for name, value in figures.items():
            writer.add_scalar(name, value, iteration)
    if wandb_writer:
        wandb_writer.log(figures, iteration)
