# SPDX-License-Identifier: Apache-2.0
"""Reads a packed row on one rank, broadcasts it, and calls the model with it on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.utils import get_attr_wrapped_model, get_model_config
from torch import Tensor

from megatron_packing.errors import InputError
from megatron_packing.megatron.device import own_device
from megatron_packing.megatron.experts import count_whole_rows, weigh_balancing_losses
from megatron_packing.megatron.layer_pattern import all_symbols, layer_pattern, multi_token_symbols
from megatron_packing.megatron.live_counts import RowCounts
from megatron_packing.megatron.multi_token import multi_token_row
from megatron_packing.megatron.packed_rotation import index_rotary_positions
from megatron_packing.megatron.row_message import WEIGHTS, RowParts, RowSizes, agree_on_sizes
from megatron_packing.megatron.segment_index import segment_index
from megatron_packing.megatron.versions import (
    fused_rotation_falls_back_to_scale,
    mamba_layers_compute_seq_idx,
    mixes_hidden_states,
    pad_between_seqs_settings,
)
from megatron_packing.thd.context_parallel import partition_indices

_FIRST_STAGE = ("tokens", "position_ids")
_LAST_STAGE = ("labels", WEIGHTS)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One rank's share of a packed row, on its device.

    Tensors have the shape ``(1, sequence_length / context_parallel_size)``. A tensor is None if
    this pipeline stage does not need it.
    """

    tokens: Tensor | None
    position_ids: Tensor | None
    labels: Tensor | None
    loss_mask: Tensor | None
    """The weight of each label: ``thd.loss_weights``."""
    padding_mask: Tensor | None
    """bool, True at padding; None unless the dataset provides it."""
    denominator: Tensor | None
    """int32, (): the row's denominator on context-parallel rank 0; 0 on the other ranks."""
    row_denominator: Tensor | None
    """int32, (): the row's denominator on every rank and stage; None without a padding mask."""
    packed_seq_params: PackedSeqParams
    row_positions: int
    """Positions of the whole row, on all context-parallel ranks together."""
    real_lengths: Tensor
    """int32: positions of each segment without padding; 0 for segments of padding."""
    counts: RowCounts | None = None
    """What the whole row holds; None on ranks that did not read it."""
    figures: dict[str, Tensor] = field(default_factory=dict)
    """What ``run_model`` adds to the report of ``loss_func``: losses of multi-token prediction."""


def get_batch(
    data_iterator: Iterator[dict[str, Tensor]] | None,
    vp_stage: int | None = None,
    *,
    multi_token: bool = False,
) -> PackedBatch:
    """Read a row on the first rank of each tensor-parallel group and broadcast it to the others.

    Every pipeline stage needs ``cu_seqlens``, so every stage reads: build the dataset on the ranks
    for which ``is_dataset_built_on_rank`` returns True. Each context-parallel rank keeps its own
    chunks of every segment: see ``thd.context_parallel``.

    Sends one message a row, and another before the first row; see ``row_message``. After the first
    row no rank waits for its GPU.

    Args:
        data_iterator: Iterator of a dataloader over ``PackedDataset`` with a micro-batch size of 1;
            None on ranks without a dataset.
        vp_stage: The model chunk under virtual pipeline parallelism.
        multi_token: Whether this stage has layers of multi-token prediction; see
            ``multi_token.has_multi_token_layers``.

    Raises:
        ValueError: The micro-batch has more than one row, or a segment cannot be cut.
        InputError: The rows are not packed, or not all of one shape.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    source = parallel_state.get_tensor_model_parallel_src_rank()
    device = own_device()
    names = _needed_on(vp_stage, multi_token=multi_token)
    parts = sizes = counts = None
    if parallel_state.get_tensor_model_parallel_rank() == 0:
        if data_iterator is None:
            raise RuntimeError("this rank reads for its tensor-parallel group but has no dataset")
        sample = next(data_iterator)
        parts, sizes = _read_row(sample, names)
        counts = RowCounts.of(sample)
    sizes = agree_on_sizes(sizes, group, source, device)
    if parts is None:
        length = sizes.message_length(len(names))
        message = torch.empty(length, dtype=torch.int32, device=device)
    else:
        message = parts.encode(pinned=device.type == "cuda").to(device, non_blocking=True)
    if group.size() > 1:
        torch.distributed.broadcast(message, source, group=group)
    row = RowParts.decode(message, sizes, names)

    is_last = WEIGHTS in names
    is_counted = parallel_state.get_context_parallel_rank() == 0
    return PackedBatch(
        tokens=row.tensors.get("tokens"),
        position_ids=row.tensors.get("position_ids"),
        labels=row.tensors.get("labels"),
        loss_mask=row.tensors.get(WEIGHTS),
        padding_mask=row.padding_mask,
        denominator=row.row_denominator * is_counted if is_last else None,
        row_denominator=row.row_denominator if sizes.has_padding_mask else None,
        packed_seq_params=_packed_seq_params(row.cu_seqlens, sizes.max_seqlen),
        row_positions=sizes.positions * parallel_state.get_context_parallel_world_size(),
        real_lengths=row.real_lengths,
        counts=counts,
    )


def is_dataset_built_on_rank(vp_stage: int | None = None) -> bool:  # noqa: ARG001
    """Whether this rank reads data: True on the first rank of each tensor-parallel group."""
    return bool(parallel_state.get_tensor_model_parallel_rank() == 0)


def is_tokens_stage(vp_stage: int | None = None, *, multi_token: bool = False) -> bool:
    """Whether this pipeline stage needs tokens or labels. Every stage needs ``cu_seqlens``.

    Args:
        vp_stage: As for ``get_batch``.
        multi_token: Likewise.
    """
    return bool(_needed_on(vp_stage, multi_token=multi_token))


def run_model(model: Any, batch: PackedBatch) -> Tensor:
    """Call a GPTModel or a HybridModel, wrapped or not.

    Returns:
        Losses on the last stage, otherwise hidden states.
    """
    padding_mask = batch.padding_mask
    if (
        padding_mask is not None
        and get_model_config(model).sequence_parallel
        and not _cuts_padding_mask(model)
    ):
        ranks = parallel_state.get_tensor_model_parallel_world_size()
        rank = parallel_state.get_tensor_model_parallel_rank()
        padding_mask = padding_mask.chunk(ranks, dim=1)[rank]
    _check_scaling(model)
    index_rotary_positions()
    tokens = None if batch.row_denominator is None else batch.real_lengths.sum()
    count_whole_rows(model, tokens)
    options = {} if padding_mask is None else {"padding_mask": padding_mask}
    multi_token: Any = nullcontext()
    if get_model_config(model).mtp_num_layers:
        _check_multi_token(model, batch)
        multi_token = _multi_token_row(batch)
        options["loss_mask"] = batch.loss_mask
    with multi_token:
        output: Tensor = model(
            batch.tokens,
            batch.position_ids,
            None,
            labels=batch.labels,
            packed_seq_params=_with_segment_index(model, batch),
            **options,
        )
    if batch.row_denominator is not None and tokens is not None:
        weigh_balancing_losses(model, output, batch.row_denominator, tokens)
    return output


def _multi_token_row(batch: PackedBatch) -> Any:
    return multi_token_row(
        batch.packed_seq_params.cu_seqlens_q,
        batch.real_lengths,
        batch.row_positions // parallel_state.get_context_parallel_world_size(),
        batch.denominator,
        batch.figures,
    )


def _check_multi_token(model: Any, batch: PackedBatch) -> None:
    """Refuse multi-token prediction where its losses would be wrong."""
    inner = get_attr_wrapped_model(model, "pre_process", return_model_obj=True)
    if "E" in multi_token_symbols(layer_pattern(inner) or ""):
        raise InputError(
            "the hybrid model has experts in its layers of multi-token prediction (E after / in "
            "its pattern), to which it gives no padding mask: give other layers there"
        )
    config = get_model_config(model)
    if mixes_hidden_states(config):
        raise InputError(
            "the model mixes hidden states in multi-token prediction (mtp_hsm), and nothing shows "
            "that they stay in their document: set mtp_hsm to False"
        )
    if inner.mtp_process != inner.post_process:
        raise InputError(
            "this model has its layers of multi-token prediction before the last pipeline stage, "
            "where their embedding may not be synchronized: put them on the last stage"
        )
    if not config.calculate_per_token_loss:
        raise InputError(
            "the model has layers of multi-token prediction (mtp_num_layers), whose losses are "
            "sums on packed rows: set calculate_per_token_loss to True"
        )
    if inner.mtp_process and batch.tokens is None:
        raise InputError(
            "this pipeline stage has layers of multi-token prediction (mtp_num_layers), but its "
            "batch has no tokens: give get_batch multi_token=has_multi_token_layers(config, "
            "vp_stage), of megatron_packing.megatron.multi_token"
        )


def _cuts_padding_mask(model: Any) -> bool:
    """Whether this stage cuts the mask for sequence parallelism: HybridModel never does."""
    inner = get_attr_wrapped_model(model, "pre_process", return_model_obj=True)
    return bool(inner.pre_process) and layer_pattern(inner) is None


def needs_segment_index(model: Any) -> bool:
    """Whether a model has Mamba layers that do not find the documents of a row themselves."""
    inner = get_attr_wrapped_model(model, "pre_process", return_model_obj=True)
    has_mamba = "M" in all_symbols(layer_pattern(inner) or "")
    return has_mamba and not mamba_layers_compute_seq_idx()


def _with_segment_index(model: Any, batch: PackedBatch) -> PackedSeqParams:
    """Add ``seq_idx`` for Mamba layers, which carry their state through all documents without it.

    Other models do not need it.
    """
    if not needs_segment_index(model):
        return batch.packed_seq_params
    index = segment_index(batch.packed_seq_params.cu_seqlens_q, batch.row_positions)
    return replace(batch.packed_seq_params, seq_idx=index)


def _check_scaling(model: Any) -> None:
    """Refuse fused YaRN where Megatron's fused kernel drops its scaling factor on packed rows.

    ``_apply_rotary_pos_emb_thd`` never receives ``mscale`` where rotary embeddings are fused
    (``models/common/embeddings/rope_utils.py``).
    """
    if fused_rotation_falls_back_to_scale():
        return
    config = get_model_config(model)
    if config.apply_rope_fusion and not config.multi_latent_attention:
        kind = get_attr_wrapped_model(model, "position_embedding_type", allow_none=True)
        if kind == "yarn":
            raise InputError(
                "the model has YaRN position embeddings and apply_rope_fusion, but Megatron's "
                "fused kernel leaves YaRN's scaling factor out on packed rows: set "
                "apply_rope_fusion to False (--no-rope-fusion)"
            )


def _read_row(sample: dict[str, Tensor], names: tuple[str, ...]) -> tuple[RowParts, RowSizes]:
    """Take this context-parallel rank's share of a sample, on the CPU."""
    if "cu_seqlens" not in sample:
        raise InputError(
            "the rows that reach forward_step are not packed: give pretrain() datasets_provider of "
            "megatron_packing.megatron.trainer along with its forward_step"
        )
    if len(sample["max_seqlen"]) != 1:
        raise ValueError(
            f"the micro-batch has {len(sample['max_seqlen'])} rows, but a packed row must be a "
            f"micro-batch of its own"
        )
    cu_seqlens = sample["cu_seqlens"].view(-1)
    rank = parallel_state.get_context_parallel_rank()
    held = partition_indices(cu_seqlens, parallel_state.get_context_parallel_world_size(), rank)
    mask = sample["padding_mask"].view(-1)[held] if "padding_mask" in sample else None
    parts = RowParts(
        cu_seqlens=cu_seqlens,
        row_denominator=(
            sample["denominator"].view(1) if "denominator" in sample else torch.zeros(1)
        ),
        real_lengths=sample["real_lengths"].view(-1),
        tensors={name: sample[name].view(-1)[held] for name in names},
        padding_mask=mask,
    )
    return parts, RowSizes(len(held), len(cu_seqlens), int(sample["max_seqlen"]), mask is not None)


def _needed_on(vp_stage: int | None, *, multi_token: bool) -> tuple[str, ...]:
    """The tensors of a row that the stage needs besides ``cu_seqlens``."""
    chunk = {"ignore_virtual": vp_stage is None, "vp_stage": vp_stage}
    embeds = multi_token or parallel_state.is_pipeline_first_stage(**chunk)
    return (
        *(_FIRST_STAGE if embeds else ()),
        *(_LAST_STAGE if parallel_state.is_pipeline_last_stage(**chunk) else ()),
    )


def _packed_seq_params(cu_seqlens: Tensor, max_seqlen: int) -> PackedSeqParams:
    """Build Megatron's description of the row; ``cu_seqlens`` includes all padding."""
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=max_seqlen,
        max_seqlen_kv=max_seqlen,
        **pad_between_seqs_settings(),
    )
