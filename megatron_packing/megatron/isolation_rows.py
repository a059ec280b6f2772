# SPDX-License-Identifier: Apache-2.0
"""Makes the rows of the packing check from one real row.

A sample is what ``PackedDataset`` returns. Pipeline stages without tokens have samples without
them, so each function changes only the tensors that a sample has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_packing.errors import InputError
from megatron_packing.megatron.device import own_device
from megatron_packing.thd.context_parallel import partition_indices

Sample = dict[str, Any]

_TRIES = 16
"""Rows that are looked at for one with two documents."""


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Where the documents of a row are."""

    lengths: tuple[int, ...]
    """Positions of each segment, with its padding; 0 for entries without a segment."""
    real_lengths: tuple[int, ...]
    """The same without padding; 0 for segments of padding."""

    @classmethod
    def of(cls, sample: Sample) -> RowLayout:
        """Return the layout of a sample."""
        offsets = sample["cu_seqlens"].view(-1).tolist()
        return cls(
            lengths=tuple(stop - start for start, stop in pairwise(offsets)),
            real_lengths=tuple(sample["real_lengths"].view(-1).tolist()),
        )

    @property
    def offsets(self) -> list[int]:
        """The entries of ``cu_seqlens``."""
        return list(accumulate(self.lengths, initial=0))

    @property
    def documents(self) -> list[int]:
        """The segments that hold documents."""
        return [segment for segment, length in enumerate(self.real_lengths) if length]

    @property
    def alternate(self) -> tuple[list[int], list[int]]:
        """Every second document from the first on, and the others: neighbors are apart."""
        return self.documents[::2], self.documents[1::2]

    def segment_of_positions(self) -> Tensor:
        """Return int64, ``(positions,)``: the segment of each real position, -1 at padding."""
        segments = torch.full((sum(self.lengths),), -1, dtype=torch.int64)
        for segment, start in enumerate(self.offsets[:-1]):
            segments[start : start + self.real_lengths[segment]] = segment
        return segments

    def held(self) -> Tensor:
        """Return the positions that this context-parallel rank holds, in its order."""
        size = parallel_state.get_context_parallel_world_size()
        rank = parallel_state.get_context_parallel_rank()
        return partition_indices(torch.tensor(self.offsets), size, rank)

    def positions_of(self, segments: Sequence[int]) -> Tensor:
        """Return bool, ``(positions,)``: which positions hold tokens of some segments."""
        return torch.isin(self.segment_of_positions(), torch.tensor(segments))

    def span(self, segment: int) -> slice:
        """Return the real positions of a segment."""
        start = self.offsets[segment]
        return slice(start, start + self.real_lengths[segment])

    def alone(self, segment: int) -> RowLayout:
        """Return the layout in which ``segment`` comes first and all others hold padding."""
        others = [length for other, length in enumerate(self.lengths) if other != segment]
        others.sort(key=lambda length: length == 0)  # entries without a segment stay last
        return RowLayout(
            lengths=(self.lengths[segment], *others),
            real_lengths=(self.real_lengths[segment], *[0] * len(others)),
        )

    def documents_alone(self) -> list[int]:
        """Return the documents that are run alone: the first, the last, the longest."""
        documents = self.documents
        longest = max(documents, key=lambda segment: self.real_lengths[segment])
        return list(dict.fromkeys([documents[0], documents[-1], longest]))


def find_row(dataset: Any, first: int) -> Sample | None:
    """Return the first of a few samples with at least two documents; None if there is none.

    Args:
        dataset: A dataset of ``PackedDataset``'s samples.
        first: The sample that the run reads first.
    """
    for number in range(first, first + _TRIES):
        sample: Sample = dataset[number]
        if len(RowLayout.of(sample).documents) > 1:
            return sample
    return None


def agree_on_row(
    find: Callable[[], Sample | None] | None,
) -> tuple[Sample | None, RowLayout | None]:
    """Read a row on the ranks that read, and tell the others of a tensor-parallel group its layout.

    Args:
        find: Reads it; None on ranks that do not read. The first rank of each group reads.

    Returns:
        The row, None on ranks that do not read, and its layout, None if no row has two documents.

    Raises:
        InputError: Another rank could not read.
    """
    sample, problem = None, None
    if find is not None:
        try:
            sample = find()
        except Exception as error:
            problem = error
    failed = torch.tensor([problem is not None], dtype=torch.int32, device=own_device())
    torch.distributed.all_reduce(failed, op=torch.distributed.ReduceOp.MAX)
    if problem is not None:
        raise problem
    if failed.item():
        raise InputError(
            "another rank could not read the row of the packing check; its own log says why"
        )
    layouts = [None if sample is None else RowLayout.of(sample)]
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() > 1:
        source = parallel_state.get_tensor_model_parallel_src_rank()
        torch.distributed.broadcast_object_list(layouts, source, group=group)
    return sample, layouts[0]


def replace_documents(sample: Sample, segments: Sequence[int]) -> Sample:
    """Give each position of some documents another token. Labels stay."""
    layout = RowLayout.of(sample)
    return _replace_tokens(sample, layout.positions_of(segments))


def replace_padding(sample: Sample) -> Sample:
    """Give each position of padding another token."""
    return _replace_tokens(sample, RowLayout.of(sample).segment_of_positions() < 0)


def train_only(sample: Sample, trained: Tensor) -> Sample:
    """Give the labels of some positions the weight 1, and all others none.

    Args:
        sample: A row.
        trained: bool, ``(positions,)``.
    """
    if "loss_mask" not in sample:
        return dict(sample)
    return {**sample, "loss_mask": trained.to(sample["loss_mask"].dtype)}


def place_alone(sample: Sample, segment: int, *, restarts: bool) -> Sample:
    """Move a document to the start of a row that is padding otherwise.

    All segments keep their lengths, so that the row has the same shape.

    Args:
        sample: The row that the document is in.
        segment: The document.
        restarts: Whether position ids are to restart in each document.
    """
    was, layout = RowLayout.of(sample), RowLayout.of(sample).alone(segment)
    source, target = was.span(segment), layout.span(0)
    moved = dict(sample)
    moved["cu_seqlens"] = torch.tensor(layout.offsets, dtype=sample["cu_seqlens"].dtype)
    moved["real_lengths"] = torch.tensor(layout.real_lengths, dtype=sample["real_lengths"].dtype)
    if "cu_seqlens_padded" in sample:
        moved["cu_seqlens_padded"] = moved["cu_seqlens"]
    for name, padding in (("tokens", 0), ("labels", 0), ("loss_mask", 0), ("padding_mask", 1)):
        if name in sample:
            tensor = torch.full_like(sample[name], padding)
            tensor[target] = sample[name][source]
            moved[name] = tensor
    if "position_ids" in sample:
        positions = [torch.arange(length) for length in layout.lengths]
        moved["position_ids"] = torch.cat(positions).to(sample["position_ids"].dtype)
        if not restarts:
            moved["position_ids"][target] = sample["position_ids"][source]
    return moved


def iterate(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Yield samples as a dataloader with micro-batches of one row does."""
    for sample in samples:
        yield {
            name: value.unsqueeze(0) if isinstance(value, Tensor) else value
            for name, value in sample.items()
        }


@dataclass(frozen=True, slots=True)
class CheckRow:
    """A row of the check: how it is made of the real row, and its layout."""

    name: str
    layout: RowLayout
    make: Callable[[Sample], Sample]


def rows_of_check(layout: RowLayout, *, restarts: bool) -> list[CheckRow]:
    """Return the rows that only go forward, the real one first.

    Args:
        layout: The layout of the real row.
        restarts: Whether position ids restart in each document.
    """
    first = layout.documents[0]

    def alone(segment: int) -> Callable[[Sample], Sample]:
        return lambda sample: place_alone(sample, segment, restarts=restarts)

    rows = [
        CheckRow("real", layout, dict),
        CheckRow("again", layout, dict),
        CheckRow("replaced", layout, lambda row: replace_documents(row, layout.alternate[0])),
        CheckRow(
            "padding", layout.alone(first), lambda sample: replace_padding(alone(first)(sample))
        ),
    ]
    return rows + [
        CheckRow(f"alone {segment}", layout.alone(segment), alone(segment))
        for segment in layout.documents_alone()
    ]


def _replace_tokens(sample: Sample, where: Tensor) -> Sample:
    if "tokens" not in sample:
        return dict(sample)
    tokens = sample["tokens"].clone()
    count = max(2, int(tokens.max()) + 1)  # ids that the model has
    generator = torch.Generator().manual_seed(1)
    steps = torch.randint(1, count, tokens.shape, generator=generator)
    tokens[where] = ((tokens + steps) % count)[where]
    return {**sample, "tokens": tokens}
