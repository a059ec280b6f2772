# SPDX-License-Identifier: Apache-2.0
"""Describes a run for the log: its model, rows, steps per epoch, evaluated documents."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import numpy as np
from megatron.core.datasets.blended_dataset import BlendedDataset

from megatron_packing.corpus.content import count_trained, num_data_bytes
from megatron_packing.corpus.joined import JoinedCorpus
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.layer_pattern import layer_pattern
from megatron_packing.megatron.versions import flag_value

_COUNTED_BYTES = 1 << 30
"""If an index has no counts, loss masks of up to this many bytes are read at the start."""


def parts_of(dataset: Any) -> list[PackedDataset]:
    """Return the packed datasets in what Megatron's builder made of a split, which may be None."""
    if dataset is None:
        return []
    if isinstance(dataset, list):
        return [part for one in dataset for part in parts_of(one)]
    return list(dataset.datasets) if isinstance(dataset, BlendedDataset) else [dataset]


def describe_start(train: Any, valid: Any, test: Any, args: Namespace) -> Iterator[str]:
    """Yield lines for the log, before the first step.

    Args:
        train: The training dataset from Megatron's builder; None without one.
        valid: The validation dataset, or a list of several.
        test: The test dataset.
        args: Megatron's arguments.

    Raises:
        InputError: No row of a dataset trains a token.
    """
    yield _describe_model(args)
    for dataset in (train, valid, test):
        for part in parts_of(dataset):
            yield _describe_rows(part)
            yield from _describe_training(part)
    if train is not None and not args.skip_train:
        yield from _describe_epochs(train, args)
    if isinstance(valid, list):
        for part in parts_of(valid):
            yield from _describe_full_validation(part, args)
        return
    for dataset in (valid, test):
        if dataset is not None and not args.full_validation and args.eval_iters:
            yield from _describe_evaluation(dataset, args)


def _describe_model(args: Namespace) -> str:
    pattern = layer_pattern(args)
    if pattern is None:
        return "> model: GPTModel"
    return f"> model: HybridModel, layers {pattern}"


def _describe_rows(part: PackedDataset) -> str:
    index, figures = part.index, part.index.figures
    last = index.corpus.first_document + index.corpus.num_documents - 1
    excess = figures.num_packs - figures.lower_bound
    bound = "the minimum" if excess <= 0 else f"{excess:,} over the lower bound"
    return (
        f"> {part.index_split.name}: {counted(len(index), 'row')} of "
        f"{index.plan.sequence_length:,} positions ({bound}, {figures.utilisation:.2%} used) for "
        f"documents {index.corpus.first_document:,} to {last:,} of {part.corpus.prefix}, in "
        f"{index.path}"
    )


def _describe_training(part: PackedDataset) -> Iterator[str]:
    """Say which tokens are trained, if there is more to it than the loss mask."""
    corpus, name = part.corpus, part.index_split.name
    without = [str(one.prefix) for one in corpus.corpora if not one.has_loss_mask]
    if without:
        yield f"> {name}: no loss mask for {' and '.join(without)}, so every token is trained"
    if isinstance(corpus, JoinedCorpus) and corpus.changes_each_epoch and name == "train":
        yield f"> {name}: each epoch of {corpus.prefix} reads a different part of its documents"
    untrained = count_untrained_packs(part)
    if untrained is None:
        yield (
            f"> {name}: {part.index.path} does not record how many rows have no trained token; "
            f"pack again with this release to record it"
        )
    elif untrained == len(part.index):
        raise InputError(
            f"no row of the {name} split of {corpus.prefix} has a trained token: its loss mask is "
            f"all 0, or --overlong truncate cut off every trained token; tokenize it again, or "
            f"give a longer --seq-length"
        )
    elif untrained:
        yield (
            f"> {name}: {untrained:,} of {counted(len(part.index), 'row')} have no trained token; "
            f"a step of only such rows logs the loss 0 and applies only weight decay"
        )


def count_untrained_packs(part: PackedDataset) -> int | None:
    """Count packs without a trained label; None if counting would take long."""
    recorded = part.index.figures.num_packs_untrained
    if recorded is not None:
        return recorded
    corpus, index = part.corpus, part.index
    if num_data_bytes(corpus, tokens=False, masks=True) > _COUNTED_BYTES:
        return None
    lengths, starts = index.segment_lengths, index.segment_starts
    if lengths is None or starts is None:
        lengths = np.asarray(corpus.num_tokens)[index.document_ids].astype(np.int64) - 1
        starts = np.zeros(len(lengths), np.int64)
    counts = count_trained(corpus, index.document_ids, starts, lengths).counts
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])[index.pack_offsets]
    return int(np.count_nonzero(np.diff(ends) == 0))


def _describe_epochs(train: Any, args: Namespace) -> Iterator[str]:
    """Say how many steps an epoch takes; Megatron itself counts only steps."""
    parts = parts_of(train)
    weights = train.weights if isinstance(train, BlendedDataset) else [1.0]
    grows = flag_value(args, "step_batch_size_schedule")
    for part, weight in zip(parts, weights, strict=True):
        rows = len(part.index)
        if grows:
            yield f"> an epoch of {part.corpus.prefix} is {counted(rows, 'row')}"
            continue
        steps = rows / (weight * args.global_batch_size)
        share = "" if len(parts) == 1 else f", {weight:.1%} of each"
        yield (
            f"> an epoch of {part.corpus.prefix} is {rows:,} rows, {steps:,.1f} steps of "
            f"{counted(args.global_batch_size, 'row')}{share}; the run's "
            f"{counted(args.train_iters, 'step')} make {args.train_iters / steps:,.2f} epochs"
        )


def _describe_evaluation(dataset: Any, args: Namespace) -> Iterator[str]:
    """Say how to evaluate each document once, if an evaluation does not."""
    batch = dataset.config.packing_eval_packs_multiple_of
    taken, parts = args.eval_iters * batch, parts_of(dataset)
    if isinstance(dataset, BlendedDataset):
        shares = "; ".join(
            f"about {weight * taken:,.0f} of the {len(part.index):,} rows of {part.corpus.prefix}"
            for part, weight in zip(parts, dataset.weights, strict=True)
        )
        yield (
            f"> an evaluation reads {taken:,} rows of the {dataset.split.name} blend: {shares}; "
            f"the next evaluation continues where it ended, so two evaluations use different "
            f"documents; pack the corpora together (A,B) to evaluate each document once"
        )
        return
    rows = len(dataset.index)
    if taken % rows == 0:
        return
    advice = (
        f"--eval-iters {rows // batch} evaluates each of them once"
        if rows % batch == 0
        else f"make their index with --packs-multiple-of {batch} to evaluate each of them once"
    )
    yield (
        f"> an evaluation reads {counted(taken, 'row')}, but the documents of the "
        f"{dataset.index_split.name} split fill {rows:,}: {advice}"
    )


def _describe_full_validation(part: PackedDataset, args: Namespace) -> Iterator[str]:
    """Say how to evaluate each row once.

    Megatron reads as many batches as a rank has rows, each of ``eval_global_batch_size`` rows.
    """
    rows, ranks = len(part.index), args.data_parallel_size
    batch = part.config.packing_eval_packs_multiple_of
    if rows % ranks:
        yield (
            f"> validation: {part.corpus.prefix} has {counted(rows, 'row')}, which is not a "
            f"multiple of the {ranks} data-parallel ranks, so some count more than once; make the "
            f"index with --packs-multiple-of {ranks}"
        )
    if batch != ranks:
        yield (
            f"> validation: a full validation of {part.corpus.prefix} reads its rows "
            f"{batch / ranks:g} times; give --eval-global-batch-size {ranks} to read them once"
        )
