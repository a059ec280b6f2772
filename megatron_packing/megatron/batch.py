# SPDX-License-Identifier: Apache-2.0
"""From the data iterator to what the model is called with, on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.utils import get_attr_wrapped_model, get_model_config
from torch import Tensor

from megatron_packing.errors import InputError
from megatron_packing.megatron.experts import count_whole_rows, weigh_balancing_losses
from megatron_packing.thd.context_parallel import partition_indices

_FIRST_STAGE = ("tokens", "position_ids")
_LAST_STAGE = ("labels", "loss_mask")


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """What a rank holds of one packed row, on its device.

    Tensors of shape ``(1, sequence_length / context_parallel_size)``; None where this pipeline
    stage has no use for them.
    """

    tokens: Tensor | None
    position_ids: Tensor | None
    labels: Tensor | None
    loss_mask: Tensor | None
    """The weight of each label: ``thd.loss_weights``."""
    padding_mask: Tensor | None
    """bool, True at padding; None unless the dataset gives it."""
    denominator: Tensor | None
    """int32, (): of the row, once among the ranks that share it and 0 on the others."""
    row_denominator: Tensor | None
    """int32, (): the same on every rank and stage; None where there is no padding mask."""
    packed_seq_params: PackedSeqParams
    real_lengths: Tensor
    """int32: positions of the row's documents without padding, zeros among them."""


def get_batch(
    data_iterator: Iterator[dict[str, Tensor]] | None, vp_stage: int | None = None
) -> PackedBatch:
    """Read a row on the first rank of each tensor-parallel group and hand it to the others.

    Every pipeline stage needs ``cu_seqlens``, so every stage reads: build the dataset where
    ``is_dataset_built_on_rank`` says so. Each context-parallel rank keeps its chunks of every
    segment: ``thd.context_parallel``.

    Args:
        data_iterator: Of a dataloader over ``PackedDataset`` with a micro-batch size of 1; None on
            ranks without a dataset.
        vp_stage: The model chunk under virtual pipeline parallelism.

    Raises:
        ValueError: The micro-batch has more than one row, or a segment cannot be cut.
        InputError: The rows are not packed.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    source = parallel_state.get_tensor_model_parallel_src_rank()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = _needed_on(vp_stage)

    def broadcast(tensor: Tensor) -> Tensor:
        if group.size() > 1:
            torch.distributed.broadcast(tensor, source, group=group)
        return tensor

    # Three messages: sizes, all integers, and the weights where they are needed.
    if parallel_state.get_tensor_model_parallel_rank() == 0:
        if data_iterator is None:
            raise RuntimeError("this rank reads for its tensor-parallel group but has no dataset")
        row = _read_row(next(data_iterator), names)
        sizes, integers, weights = (
            _to_device(part, device) for part in (row.sizes, row.integers, row.weights)
        )
        broadcast(sizes)
        held, width, max_seqlen, has_mask = row.sizes.tolist()
    else:
        sizes = broadcast(torch.empty(4, dtype=torch.int64, device=device))
        held, width, max_seqlen, has_mask = sizes.tolist()
        count = held * (sum(name != "loss_mask" for name in names) + has_mask) + 2 * width
        integers = torch.empty(count, dtype=torch.int64, device=device)
        weights = torch.empty(held, dtype=torch.float32, device=device)
    broadcast(integers)
    if "loss_mask" in names:
        broadcast(weights)

    boundaries, rows = integers[: 2 * width], integers[2 * width :].view(-1, 1, held)
    cu_seqlens = boundaries[:width].to(torch.int32)
    found = dict(zip([name for name in names if name != "loss_mask"], rows, strict=False))
    is_last = "loss_mask" in names
    row_denominator = boundaries[width].to(torch.int32)
    is_counted = parallel_state.get_context_parallel_rank() == 0
    return PackedBatch(
        tokens=found.get("tokens"),
        position_ids=found.get("position_ids"),
        labels=found.get("labels"),
        loss_mask=weights.view(1, held) if is_last else None,
        padding_mask=rows[-1].bool() if has_mask else None,
        denominator=row_denominator * is_counted if is_last else None,
        row_denominator=row_denominator if has_mask else None,
        packed_seq_params=_packed_seq_params(cu_seqlens, max_seqlen),
        real_lengths=boundaries[width + 1 :].to(torch.int32),
    )


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy without waiting for the work that the device still has, which takes pinned memory."""
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def is_dataset_built_on_rank(vp_stage: int | None = None) -> bool:  # noqa: ARG001
    """Whether this rank reads: the first of each tensor-parallel group, on every stage."""
    return bool(parallel_state.get_tensor_model_parallel_rank() == 0)


def is_tokens_stage(vp_stage: int | None = None) -> bool:
    """Whether this pipeline stage needs tokens or labels; all need ``cu_seqlens``."""
    return bool(_needed_on(vp_stage))


def run_model(model: Any, batch: PackedBatch) -> Tensor:
    """Call a GPTModel, wrapped or not: the losses on the last stage, hidden states on others."""
    padding_mask = batch.padding_mask
    if (
        padding_mask is not None
        and get_model_config(model).sequence_parallel
        and not get_attr_wrapped_model(model, "pre_process")  # which cuts it itself
    ):
        ranks = parallel_state.get_tensor_model_parallel_world_size()
        rank = parallel_state.get_tensor_model_parallel_rank()
        padding_mask = padding_mask.chunk(ranks, dim=1)[rank]
    packed = batch.packed_seq_params
    if _rotates_segment_by_segment(model):
        packed = _without_empty_segments(packed)
    if batch.row_denominator is not None:
        count_whole_rows(model)
    output: Tensor = model(
        batch.tokens,
        batch.position_ids,
        None,
        labels=batch.labels,
        packed_seq_params=packed,
        **({} if padding_mask is None else {"padding_mask": padding_mask}),
    )
    if batch.row_denominator is not None:
        weigh_balancing_losses(model, output, batch.row_denominator, batch.real_lengths.sum())
    return output


def _rotates_segment_by_segment(model: Any) -> bool:
    """Whether Megatron rotates queries and keys without its fused kernel.

    It then starts kernels for every segment of the row, the empty ones too: on an H100 a step of 4
    layers took 1.0 s with 512 offsets instead of 0.12 s (docs/gpu.md). The interleaved kind fails
    on an empty segment.
    """
    if get_model_config(model).apply_rope_fusion:
        return False
    kind = get_attr_wrapped_model(model, "position_embedding_type", allow_none=True)
    return bool(kind not in ("learned_absolute", "none"))


def _without_empty_segments(packed: PackedSeqParams) -> PackedSeqParams:
    """Leave repeated offsets out."""
    offsets = torch.unique_consecutive(packed.cu_seqlens_q)
    return replace(packed, cu_seqlens_q=offsets, cu_seqlens_kv=offsets)


@dataclass(frozen=True, slots=True)
class _Row:
    """What the reading rank sends, on the CPU."""

    sizes: Tensor
    """Positions held by each rank, width of cu_seqlens, max_seqlen, whether there is a mask."""
    integers: Tensor
    """cu_seqlens, denominator, real lengths, then rows: those named and the padding mask."""
    weights: Tensor


def _read_row(sample: dict[str, Tensor], names: tuple[str, ...]) -> _Row:
    if "cu_seqlens" not in sample:
        raise InputError(
            "rows that reach forward_step are not packed: give pretrain() datasets_provider of "
            "megatron_packing.megatron.trainer along with its forward_step"
        )
    if len(sample["max_seqlen"]) != 1:
        raise ValueError(
            f"the micro-batch has {len(sample['max_seqlen'])} rows; packed rows go one at a time"
        )
    cu_seqlens = sample["cu_seqlens"].view(-1)
    rank = parallel_state.get_context_parallel_rank()
    held = partition_indices(cu_seqlens, parallel_state.get_context_parallel_world_size(), rank)
    rows = [sample[name].view(-1)[held] for name in names if name != "loss_mask"]
    has_mask = "padding_mask" in sample
    if has_mask:
        rows.append(sample["padding_mask"].view(-1)[held].long())
    is_last = "loss_mask" in names
    denominator = sample["denominator"].view(1) if "denominator" in sample else torch.zeros(1)
    real_lengths = sample["real_lengths"].view(-1).long()
    sizes = [len(held), len(cu_seqlens), int(sample["max_seqlen"]), int(has_mask)]
    return _Row(
        sizes=torch.tensor(sizes),
        integers=torch.cat([cu_seqlens.long(), denominator.long(), real_lengths, *rows]),
        weights=sample["loss_mask"].view(-1)[held] if is_last else torch.empty(0),
    )


def _needed_on(vp_stage: int | None) -> tuple[str, ...]:
    """What the stage needs of a row beside its boundaries."""
    chunk = {"ignore_virtual": vp_stage is None, "vp_stage": vp_stage}
    return (
        *(_FIRST_STAGE if parallel_state.is_pipeline_first_stage(**chunk) else ()),
        *(_LAST_STAGE if parallel_state.is_pipeline_last_stage(**chunk) else ()),
    )


def _packed_seq_params(cu_seqlens: Tensor, max_seqlen: int) -> PackedSeqParams:
    """Fill the fields that this version of Megatron has.

    ``cu_seqlens`` covers padding too, so there is none between segments; where Transformer Engine
    is not told so it compares the two tensors, on some versions at every layer.
    """
    settings = {
        "qkv_format": "thd",
        "cu_seqlens_q": cu_seqlens,
        "cu_seqlens_kv": cu_seqlens,
        "max_seqlen_q": max_seqlen,
        "max_seqlen_kv": max_seqlen,
    }
    if any(field.name == "pad_between_seqs" for field in fields(PackedSeqParams)):
        settings["pad_between_seqs"] = False
    return PackedSeqParams(**settings)
