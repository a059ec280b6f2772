# SPDX-License-Identifier: Apache-2.0
"""Computes causal attention over packed rows.

``packed_attention`` is the reference for any device, used by tests and on machines without a GPU.
``varlen_attention`` computes the same with torch's fused kernels, on GPUs without Transformer
Engine. If Transformer Engine is installed, its own attention replaces both
(``megatron_packing.megatron.layer_spec``).
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from megatron_packing.thd.context_parallel import CausalChunks, GatherRow, causal_chunks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Backend = Literal["transformer_engine", "varlen", "reference"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    softmax_scale: float,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Compute causal attention within each segment of a row.

    Args:
        query: ``(positions, heads, head_dim)``.
        key: ``(positions, groups, head_dim)``; ``heads`` is a multiple of ``groups``.
        value: ``(positions, groups, value_dim)``.
        cu_seqlens: Integers ``(num_segments + 1,)`` from 0 to the positions of the row, never
            decreasing; repeated values are empty segments.
        softmax_scale: Factor on the scores.
        group: The ranks that share the row. Each passes the positions that ``partition_indices``
            gives it; keys and values are gathered. None: this rank has the whole row.

    Returns:
        ``(positions, heads, value_dim)``.

    Raises:
        ValueError: ``cu_seqlens`` does not cover the row.
    """
    num_ranks = 1 if group is None else group.size()
    _check_covered(query, cu_seqlens, num_ranks)
    if group is None or num_ranks == 1:
        lengths = torch.diff(cu_seqlens).tolist()
        queries, keys, values = (_heads_first(x).split(lengths, dim=2) for x in (query, key, value))
        outputs = [
            causal_attention(*segment, softmax_scale)
            for segment in zip(queries, keys, values, strict=True)
            if segment[0].shape[2] > 0
        ]
        return _positions_first(torch.cat(outputs, dim=2))
    chunks = causal_chunks(cu_seqlens, num_ranks, group.rank())
    key, value = (_heads_first(GatherRow.apply(x, cu_seqlens, group)) for x in (key, value))
    outputs = []
    for queries, start, num_keys in zip(
        _heads_first(query).split(chunks.num_queries, dim=2),
        chunks.key_starts,
        chunks.num_keys,
        strict=True,
    ):
        num_queries = queries.shape[2]
        seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device)
        outputs.append(
            scaled_dot_product_attention(
                queries,
                key.narrow(2, start, num_keys),
                value.narrow(2, start, num_keys),
                attn_mask=seen.tril(num_keys - num_queries),
                scale=softmax_scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return _positions_first(torch.cat(outputs, dim=2))


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    softmax_scale: float,
    group: ProcessGroup | None = None,
    *,
    max_seqlen: int,
) -> Tensor:
    """Compute ``packed_attention`` with ``torch.nn.attention.varlen``: half precision on CUDA only.

    Args:
        query: As in ``packed_attention``; float16 or bfloat16.
        key: As in ``packed_attention``.
        value: As in ``packed_attention``.
        cu_seqlens: As in ``packed_attention``; int32.
        softmax_scale: As in ``packed_attention``.
        group: As in ``packed_attention``.
        max_seqlen: The length of the longest segment, or more.
    """
    from torch.nn.attention.varlen import varlen_attn  # the oldest supported torch lacks it

    if group is None or group.size() == 1:
        query_offsets = key_offsets = cu_seqlens
        max_queries = max_keys = max_seqlen
    else:
        chunks = causal_chunks(cu_seqlens, group.size(), group.rank())
        held = _seen_keys(chunks, query.device)
        key, value = (GatherRow.apply(x, cu_seqlens, group)[held] for x in (key, value))
        query_offsets, key_offsets = (
            torch.tensor([0, *numbers], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            for numbers in (chunks.num_queries, chunks.num_keys)
        )
        query_offsets, key_offsets = query_offsets.to(query.device), key_offsets.to(query.device)
        max_queries, max_keys = max(chunks.num_queries), max(chunks.num_keys)
    settings = {
        "scale": softmax_scale,
        "window_size": (-1, 0),
    }  # causal, aligned to the lower right corner
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            settings["enable_gqa"] = True
        else:  # older torch, such as 2.11
            group_size = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(group_size, dim=1) for x in (key, value))
    output: Tensor = varlen_attn(
        query, key, value, query_offsets, key_offsets, max_queries, max_keys, **settings
    )
    return output


def takes_scale_and_window() -> bool:
    """Whether this torch's ``varlen_attn`` has the arguments that ``varlen_attention`` needs."""
    from torch.nn.attention.varlen import varlen_attn

    return {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()


def causal_attention(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float) -> Tensor:
    """Compute causal attention of ``(batch, heads, positions, dim)``, with grouped query heads."""
    return scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        scale=softmax_scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _check_covered(query: Tensor, cu_seqlens: Tensor, num_ranks: int) -> None:
    positions = query.shape[0] * num_ranks
    offsets = cu_seqlens.tolist()
    falls = any(stop < start for start, stop in pairwise(offsets))
    if offsets[0] != 0 or offsets[-1] != positions or falls:
        raise ValueError(
            f"cu_seqlens goes from {offsets[0]} to {offsets[-1]}"
            f"{' and decreases in between' if falls else ''}; "
            f"it must increase from 0 to the {positions} positions of the row"
        )


def _seen_keys(chunks: CausalChunks, device: torch.device) -> Tensor:
    """Return the key positions of all chunks, concatenated."""
    pairs = zip(chunks.key_starts, chunks.num_keys, strict=True)
    return torch.cat([torch.arange(start, start + count, device=device) for start, count in pairs])


def _heads_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).unsqueeze(0)


def _positions_first(tensor: Tensor) -> Tensor:
    return tensor.squeeze(0).transpose(0, 1)
