"""Packed rows as samples of Megatron-Bridge."""

from __future__ import annotations

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor

from megatron_packing.thd.rows import PackedRows


class PackedRowDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows as Bridge's ``gpt_step`` reads them.

    Each sample is a dict of tensors; ``collate_fn`` puts a dimension of rows before each:

        tokens, labels, position_ids        int64, (sequence_length,)
        loss_mask                           float32, (sequence_length,): 1 where the label is
                                            trained
        cu_seqlens_q, cu_seqlens_kv         int32, the same width for every sample; for Bridge 0.6
        max_seqlen_q, max_seqlen_kv         int32, (1,)
        cu_seqlens, max_seqlen              the same, for Bridge up to 0.5
        cu_seqlens_argmin                   int64, (1,): the width, as there is nothing to cut off

    ``cu_seqlens`` covers the row and repeats its end; Bridge's own -1 as filling reaches
    Transformer Engine under context parallelism (Megatron-Bridge#4489).
    """

    def __init__(self, rows: PackedRows, num_samples: int, ahead: int = 0) -> None:
        """Serve ``num_samples`` rows of the stream, or one epoch where it is 0.

        Args:
            rows: The stream.
            num_samples: The length.
            ahead: How far the row is ahead of the sample: sample i is row ``i + ahead``.
        """
        self.rows = rows
        self.num_samples = num_samples
        self.ahead = ahead

    def __len__(self) -> int:
        """Samples, over as many epochs as that takes."""
        return self.num_samples or len(self.rows.index)

    def __getitem__(self, idx: int) -> dict[str, Tensor]:
        """Lay sample ``idx`` out."""
        arrays = self.rows.row(int(idx) + self.ahead)
        row = {
            name: torch.from_numpy(arrays[name])
            for name in ("tokens", "labels", "position_ids", "loss_mask")
        }
        cu_seqlens = torch.from_numpy(arrays["cu_seqlens"])
        max_seqlen = torch.from_numpy(arrays["max_seqlen"].reshape(1))
        return {
            **row,
            "cu_seqlens_q": cu_seqlens,
            "cu_seqlens_kv": cu_seqlens,
            "max_seqlen_q": max_seqlen,
            "max_seqlen_kv": max_seqlen,
            "cu_seqlens": cu_seqlens,
            "cu_seqlens_argmin": torch.tensor([len(cu_seqlens)]),
            "max_seqlen": max_seqlen,
        }

    @staticmethod
    def collate_fn(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack samples: ``(rows, ...)`` of each tensor."""
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
