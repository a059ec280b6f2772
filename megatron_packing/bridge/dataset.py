# SPDX-License-Identifier: Apache-2.0
"""The dataset that serves packed rows to Megatron-Bridge."""

from __future__ import annotations

from collections.abc import Sequence

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor

from megatron_packing.bridge.stream import Beginning
from megatron_packing.megatron.endless import BlendOrder
from megatron_packing.thd.rows import PackedRows


class PackedRowDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows as Bridge's ``gpt_step`` reads them.

    Each sample is a dict of tensors; ``collate_fn`` puts a dimension of rows before each:

        tokens, labels, position_ids        int64, (sequence_length,)
        loss_mask                           float32, (sequence_length,): 1 where the label is
                                            trained
        padding_mask                        bool, (sequence_length,): True at padding; from Bridge
                                            0.7 on, for MoE routers
        cu_seqlens_q, cu_seqlens_kv         int32, the same width for every sample of all splits;
                                            from Bridge 0.6 on
        max_seqlen_q, max_seqlen_kv         int32, (1,)
        cu_seqlens, max_seqlen              the same, for Bridge up to 0.5
        cu_seqlens_argmin                   int64, (1,): the width, because no entry is filler

    ``cu_seqlens`` covers the row and repeats its last offset as filler. Bridge's own filler, -1,
    reaches Transformer Engine under context parallelism (Megatron-Bridge#4489).
    """

    def __init__(
        self,
        rows: Sequence[PackedRows],
        num_samples: int,
        *,
        weights: Sequence[float] = (1.0,),
        beginning: Beginning | None = None,
        with_padding_mask: bool = False,
    ) -> None:
        """Serve ``num_samples`` rows of the stream, or one epoch if it is 0.

        Args:
            rows: The rows of each pack index.
            num_samples: The length of the dataset.
            weights: The share of samples from each index; they sum to 1. Samples are assigned to
                indexes as in Megatron's blends: see ``BlendOrder``.
            beginning: Where the stream starts; None for its first row at sample 0.
            with_padding_mask: Also return ``padding_mask``.
        """
        self.rows = list(rows)
        self.num_samples = num_samples
        self._order = BlendOrder(weights)
        self._beginning = beginning or Beginning(0, (0,) * len(self.rows))
        self._with_padding_mask = with_padding_mask

    def __len__(self) -> int:
        """Return the number of samples, over any number of epochs."""
        return self.num_samples or sum(len(one.index) for one in self.rows)

    def __getitem__(self, idx: int) -> dict[str, Tensor]:
        """Return sample ``idx``."""
        return as_bridge_reads(self.read(idx))

    def read(self, idx: int) -> dict[str, Tensor]:
        """Return sample ``idx`` with ``cu_seqlens``, ``max_seqlen`` and ``real_lengths``."""
        which, sample = self._order.locate(int(idx) - self._beginning.first_sample)
        arrays = self.rows[which].row(
            sample + self._beginning.first_rows[which], with_padding_mask=self._with_padding_mask
        )
        names = [*_OF_POSITIONS, "cu_seqlens", "real_lengths"]
        if self._with_padding_mask:
            names.append("padding_mask")
        row = {name: torch.from_numpy(arrays[name]) for name in names}
        return {**row, "max_seqlen": torch.from_numpy(arrays["max_seqlen"].reshape(1))}

    @staticmethod
    def collate_fn(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack samples to tensors of shape ``(rows, ...)``."""
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


_OF_POSITIONS = ("tokens", "labels", "position_ids", "loss_mask")


def as_bridge_reads(row: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give what ``PackedRowDataset.read`` returned the names of Bridge's releases."""
    names = [name for name in (*_OF_POSITIONS, "padding_mask") if name in row]
    cu_seqlens, max_seqlen = row["cu_seqlens"], row["max_seqlen"]
    return {
        **{name: row[name] for name in names},
        "cu_seqlens_q": cu_seqlens,
        "cu_seqlens_kv": cu_seqlens,
        "max_seqlen_q": max_seqlen,
        "max_seqlen_kv": max_seqlen,
        "cu_seqlens": cu_seqlens,
        "cu_seqlens_argmin": torch.tensor([len(cu_seqlens)]),
        "max_seqlen": max_seqlen,
    }
