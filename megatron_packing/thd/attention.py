"""Causal attention over packed rows, on any device.

The reference that the tests and machines without a GPU use. Transformer Engine's fused attention
takes its place where it is installed (``megatron_packing.megatron.layer_spec``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, softmax_scale: float
) -> Tensor:
    """Causal attention in which each segment of a row sees itself alone.

    Args:
        query: ``(positions, heads, head_dim)``.
        key: ``(positions, groups, head_dim)``; ``heads`` is a multiple of ``groups``.
        value: ``(positions, groups, value_dim)``.
        cu_seqlens: Integers ``(num_segments + 1,)`` from 0 to ``positions``, never falling;
            repeated values are segments of no positions.
        softmax_scale: Factor on the scores.

    Returns:
        ``(positions, heads, value_dim)``.
    """
    lengths = torch.diff(cu_seqlens).tolist()
    if sum(lengths) != query.shape[0]:
        raise ValueError(f"cu_seqlens covers {sum(lengths)} positions of {query.shape[0]}")
    # (1, heads, positions, dim), cut into segments.
    queries, keys, values = (
        tensor.transpose(0, 1).unsqueeze(0).split(lengths, dim=2) for tensor in (query, key, value)
    )
    outputs = [
        causal_attention(*segment, softmax_scale)
        for segment in zip(queries, keys, values, strict=True)
        if segment[0].shape[2] > 0
    ]
    return torch.cat(outputs, dim=2).squeeze(0).transpose(0, 1)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, softmax_scale: float) -> Tensor:
    """Causal attention of ``(batch, heads, positions, dim)`` tensors, heads grouped as needed."""
    return scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        scale=softmax_scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
