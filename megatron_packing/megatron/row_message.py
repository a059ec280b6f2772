# SPDX-License-Identifier: Apache-2.0
"""What the ranks of a tensor-parallel group tell each other about a row.

The rank that reads sends one int32 tensor for each row:

    cu_seqlens (width), row denominator (1), real lengths (width - 1), then ``positions`` values for
    each tensor of the stage, in order, and as many for the padding mask

Loss weights are float32 and travel as their bits. The sizes are those of all rows of a run, so they
are sent once, before the first row, and nobody waits for the GPU to learn them later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_packing.errors import InputError

WEIGHTS = "loss_mask"
"""The only tensor of a row that is float32."""


@dataclass(frozen=True, slots=True)
class RowSizes:
    """The sizes of all rows of a run."""

    positions: int
    """Positions that each context-parallel rank holds."""
    width: int
    """Entries of ``cu_seqlens``."""
    max_seqlen: int
    has_padding_mask: bool

    def message_length(self, num_tensors: int) -> int:
        """Return the entries of the message about a row, for a stage with so many tensors."""
        return 2 * self.width + (num_tensors + self.has_padding_mask) * self.positions


_agreed: dict[ProcessGroup, RowSizes] = {}


def agree_on_sizes(
    own: RowSizes | None, group: ProcessGroup, source: int, device: torch.device
) -> RowSizes:
    """Return the sizes of rows; in the first call of a group they are sent.

    Args:
        own: The sizes of the row that this rank read; None on the ranks that do not read.
        group: The tensor-parallel group.
        source: The global rank that reads.
        device: The device of tensors that are sent.

    Raises:
        InputError: The row has other sizes than the first one.
    """
    if group.size() == 1:
        assert own is not None
        return own
    if group not in _agreed:
        sizes = torch.tensor([0] * 4 if own is None else list(map(int, astuple(own))))
        sizes = sizes.to(device)
        torch.distributed.broadcast(sizes, source, group=group)
        positions, width, max_seqlen, has_padding_mask = sizes.tolist()
        _agreed[group] = RowSizes(positions, width, max_seqlen, bool(has_padding_mask))
    agreed = _agreed[group]
    if own not in (None, agreed):
        raise InputError(
            f"a row has other sizes ({own}) than the first row of this run ({agreed}), which the "
            f"other tensor-parallel ranks expect: give all datasets of a run the same "
            f"PackedDatasetConfig.packing_shape"
        )
    return agreed


@dataclass(frozen=True, slots=True)
class RowParts:
    """A row as one rank holds it."""

    cu_seqlens: Tensor
    """int32, ``(width,)``."""
    row_denominator: Tensor
    """Shape (1,) to encode it; int32, () once it is decoded."""
    real_lengths: Tensor
    """int32, ``(width - 1,)``."""
    tensors: dict[str, Tensor]
    """Tensors of the stage by name: ``(positions,)`` to encode. Decoded, ``(1, positions)``:
    float32 for loss weights, else int64."""
    padding_mask: Tensor | None
    """bool, shaped likewise."""

    def encode(self, *, pinned: bool) -> Tensor:
        """Return the message.

        Args:
            pinned: Whether it is in pinned memory, so that no copy of it to a GPU makes the host
                wait. torch keeps such memory for the next message.
        """
        masks = () if self.padding_mask is None else (self.padding_mask,)
        integers = [
            tensor.float().view(torch.int32) if name == WEIGHTS else tensor
            for name, tensor in self.tensors.items()
        ]
        parts = (self.cu_seqlens, self.row_denominator, self.real_lengths, *integers, *masks)
        count = sum(len(part) for part in parts)
        message = torch.empty(count, dtype=torch.int32, pin_memory=pinned)
        return torch.cat([part.to(torch.int32) for part in parts], out=message)

    @classmethod
    def decode(cls, message: Tensor, sizes: RowSizes, names: Sequence[str]) -> RowParts:
        """Read the message about a row for a stage with the tensors ``names``."""
        width = sizes.width
        head, rows = message[: 2 * width], message[2 * width :].view(-1, 1, sizes.positions)
        return cls(
            cu_seqlens=head[:width],
            row_denominator=head[width],
            real_lengths=head[width + 1 :],
            tensors={
                name: row.view(torch.float32) if name == WEIGHTS else row.long()
                for name, row in zip(names, rows, strict=False)
            },
            padding_mask=rows[-1].bool() if sizes.has_padding_mask else None,
        )
