# SPDX-License-Identifier: Apache-2.0
"""Encodes one row for the broadcast in a tensor-parallel group, and decodes it.

The reading rank sends three tensors:

    sizes      int64, (4,): positions per rank, width of cu_seqlens, max_seqlen, 1 if there is a
               padding mask
    integers   int64: cu_seqlens (width), row denominator (1), real lengths (width - 1), then
               ``positions`` values for each integer tensor of the stage, in order, then as many for
               the padding mask
    weights    float32: the loss weight of each position; sent on the last pipeline stage only
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowSizes:
    """The sizes that every rank must know before it can receive the rest."""

    positions: int
    """Positions that each context-parallel rank holds."""
    width: int
    """Entries of ``cu_seqlens``."""
    max_seqlen: int
    has_padding_mask: bool

    def encode(self) -> Tensor:
        """Return the message ``sizes``."""
        return torch.tensor([int(size) for size in astuple(self)])

    @classmethod
    def decode(cls, sizes: Tensor) -> RowSizes:
        """Read the message ``sizes``."""
        positions, width, max_seqlen, has_padding_mask = sizes.tolist()
        return cls(positions, width, max_seqlen, bool(has_padding_mask))

    @staticmethod
    def buffer(device: torch.device) -> Tensor:
        """Return a tensor that receives the message ``sizes``."""
        return torch.empty(4, dtype=torch.int64, device=device)


@dataclass(frozen=True, slots=True)
class RowParts:
    """The integer parts of a row, as one rank holds them."""

    cu_seqlens: Tensor
    row_denominator: Tensor
    """Shape (1,) to encode it; shape () once it is decoded."""
    real_lengths: Tensor
    tensors: dict[str, Tensor]
    """Tensors of the stage by name; ``(positions,)`` to encode, ``(1, positions)`` decoded."""
    padding_mask: Tensor | None

    def encode(self) -> Tensor:
        """Return the message ``integers``."""
        masks = () if self.padding_mask is None else (self.padding_mask,)
        parts = (self.cu_seqlens, self.row_denominator, self.real_lengths)
        return torch.cat([part.long() for part in (*parts, *self.tensors.values(), *masks)])

    @classmethod
    def decode(cls, integers: Tensor, sizes: RowSizes, names: tuple[str, ...]) -> RowParts:
        """Read the message ``integers`` that holds the tensors ``names``."""
        width = sizes.width
        head, rows = integers[: 2 * width], integers[2 * width :].view(-1, 1, sizes.positions)
        return cls(
            cu_seqlens=head[:width].to(torch.int32),
            row_denominator=head[width].to(torch.int32),
            real_lengths=head[width + 1 :].to(torch.int32),
            tensors=dict(zip(names, rows, strict=False)),
            padding_mask=rows[-1].bool() if sizes.has_padding_mask else None,
        )

    @staticmethod
    def buffer(sizes: RowSizes, names: tuple[str, ...], device: torch.device) -> Tensor:
        """Return a tensor that receives the message ``integers``."""
        num_rows = len(names) + sizes.has_padding_mask
        count = 2 * sizes.width + num_rows * sizes.positions
        return torch.empty(count, dtype=torch.int64, device=device)
