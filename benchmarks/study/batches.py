# SPDX-License-Identifier: Apache-2.0
"""Which documents each optimizer step of a condition trains, and their tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.study.conditions import Condition
from megatron_packing import Corpus, PackIndex
from megatron_packing.index.pack_index import Segments
from megatron_packing.thd.layout import lay_out, positions_of
from megatron_packing.thd.loss_weights import weigh
from megatron_packing.thd.rows import PackedRows

Step = list[Segments]
"""The rows of a step: the segments of each."""


@dataclass(frozen=True, slots=True)
class Row:
    """The real positions of a row, without its tail."""

    tokens: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    weights: torch.Tensor
    """Float32: of each position's loss."""
    lengths: list[int]
    """Of the spans whose positions attend to each other."""
    denominator: int
    num_trained: int


def rows_of(condition: Condition, index: PackIndex, corpus: Corpus, seed: int) -> PackedRows:
    """Return the stream of rows that a condition trains."""
    return PackedRows(
        index=index,
        corpus=corpus,
        seed=seed,
        new_order_each_epoch=True,
        attention=condition.attention,
        position_ids=positions_of(condition.attention),
        normaliser=condition.normaliser,
    )


def plan_steps(condition: Condition, rows: PackedRows, epochs: int, num_steps: int) -> list[Step]:
    """Divide some epochs of documents into optimizer steps.

    Args:
        condition: Says what becomes a step.
        rows: The stream of its rows.
        epochs: Each document is trained so often.
        num_steps: How many steps there are.
    """
    stream = [rows.segments(row) for row in range(epochs * len(rows.index))]
    if condition.steps == "rows":
        return _divide(stream, num_steps)
    documents = [one for row in stream for one in _documents(row)]
    if condition.steps == "documents":
        return _divide(documents, num_steps)
    generator = np.random.default_rng([rows.seed, 1])
    shuffled = [
        documents[at]
        for epoch in np.array_split(np.arange(len(documents)), epochs)
        for at in generator.permutation(epoch)
    ]
    if condition.steps == "other documents":
        counts = [sum(len(row.document_ids) for row in step) for step in _divide(stream, num_steps)]
        ends = np.cumsum(counts)
    else:
        trained = [count_trained(rows.corpus, one) for one in shuffled]
        shares = generator.lognormal(sigma=np.sqrt(np.log1p(condition.spread**2)), size=num_steps)
        targets = np.cumsum(shares) / shares.sum() * sum(trained)
        ends = np.searchsorted(np.cumsum(trained), targets - 0.5, side="left") + 1
        # Each step has a document, however small its share.
        ends = np.maximum.accumulate(ends - np.arange(num_steps)) + np.arange(num_steps)
        ends = np.minimum(ends, len(shuffled) - np.arange(num_steps)[::-1])
    starts = np.concatenate([[0], ends[:-1]])
    return [shuffled[start:end] for start, end in zip(starts, ends, strict=True)]


def lay(rows: PackedRows, segments: Segments) -> Row:
    """Read a row."""
    placement = rows.place(segments)
    layout = lay_out(rows.corpus, segments, placement, pad_token=0)
    weights, denominator = weigh(
        layout.loss_mask,
        rows.corpus,
        segments,
        placement,
        rows.normaliser,
        parts_are_elsewhere=rows.index.plan.strategy == "random",
    )
    lengths = [length for length in placement.real_lengths.tolist() if length]
    real = slice(0, sum(lengths))  # the alignment is 1: there are no pads in between
    return Row(
        tokens=torch.from_numpy(layout.tokens[real]),
        labels=torch.from_numpy(layout.labels[real]),
        position_ids=torch.from_numpy(placement.position_ids(rows.position_ids)[real]),
        weights=torch.from_numpy(weights[real]),
        lengths=lengths,
        denominator=denominator,
        num_trained=int(np.count_nonzero(layout.loss_mask)),
    )


def count_trained(corpus: Corpus, segments: Segments) -> int:
    """Count the trained tokens of segments."""
    return sum(
        int(np.count_nonzero(corpus.loss_mask(document, start + 1, start + length + 1)))
        for document, start, length in segments
    )


def _documents(segments: Segments) -> Iterator[Segments]:
    """Yield each segment as a row of its own."""
    for at in range(len(segments.document_ids)):
        here = slice(at, at + 1)
        yield Segments(segments.document_ids[here], segments.starts[here], segments.lengths[here])


def _divide(stream: list[Segments], num_steps: int) -> list[Step]:
    """Divide a list into so many parts whose sizes differ by one at most."""
    ends: NDArray[np.int64] = np.arange(num_steps + 1) * len(stream) // num_steps
    return [stream[start:end] for start, end in pairwise(ends.tolist())]
