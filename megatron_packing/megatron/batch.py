"""From the data iterator to what the model is called with, on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

_INTEGERS = ("tokens", "labels", "position_ids")


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One packed row on this rank's device; tensors of shape ``(1, sequence_length)``."""

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    packed_seq_params: PackedSeqParams


def get_batch(data_iterator: Iterator[dict[str, Tensor]] | None) -> PackedBatch:
    """Read a row on the first rank of each tensor-parallel group and hand it to the others.

    Every pipeline stage needs ``cu_seqlens``, so every stage reads: build the dataset where
    ``is_dataset_built_on_rank`` says so.

    Args:
        data_iterator: Of a dataloader over ``PackedDataset`` with a micro-batch size of 1; None on
            ranks without a dataset.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    source = parallel_state.get_tensor_model_parallel_src_rank()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def broadcast(tensor: Tensor) -> Tensor:
        if group.size() > 1:
            torch.distributed.broadcast(tensor, source, group=group)
        return tensor

    if parallel_state.get_tensor_model_parallel_rank() == 0:
        if data_iterator is None:
            raise RuntimeError("this rank reads for its tensor-parallel group but has no dataset")
        sample = next(data_iterator)
        rows, length = sample["tokens"].shape
        if rows != 1:
            raise ValueError(f"the micro-batch has {rows} rows; packed rows go one at a time")
        cu_seqlens = sample["cu_seqlens"].view(-1)
        max_seqlen = int(sample["max_seqlen"])
        sizes = torch.tensor([length, cu_seqlens.numel(), max_seqlen], device=device)
        parts = [*(sample[name].view(-1) for name in _INTEGERS), cu_seqlens.long()]
        integers = torch.cat(parts).to(device, non_blocking=True)
        loss_mask = sample["loss_mask"].view(-1).to(device, non_blocking=True)
        broadcast(sizes)
    else:
        sizes = broadcast(torch.empty(3, dtype=torch.int64, device=device))
        length, width, max_seqlen = sizes.tolist()
        integers = torch.empty(len(_INTEGERS) * length + width, dtype=torch.int64, device=device)
        loss_mask = torch.empty(length, dtype=torch.float32, device=device)
    broadcast(integers)
    broadcast(loss_mask)

    tokens, labels, position_ids = integers[: 3 * length].view(3, 1, length).unbind(0)
    cu_seqlens = integers[3 * length :].to(torch.int32)
    return PackedBatch(
        tokens=tokens,
        labels=labels,
        loss_mask=loss_mask.view(1, length),
        position_ids=position_ids,
        packed_seq_params=PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=max_seqlen,
            max_seqlen_kv=max_seqlen,
        ),
    )


def is_dataset_built_on_rank(vp_stage: int | None = None) -> bool:  # noqa: ARG001
    """Whether this rank reads: the first of each tensor-parallel group, on every stage."""
    return bool(parallel_state.get_tensor_model_parallel_rank() == 0)
