# SPDX-License-Identifier: Apache-2.0
"""Computes the attention of any of Megatron's layers in plain torch, for small checks.

``layer_spec`` refuses to train what its attention does not support. A check need not be fast, so
here attention also has sliding windows, sinks and the channels of multi-latent attention.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.utils import is_layer_window_attention
from torch import Tensor

from megatron_packing.megatron.layer_spec import ReferenceAttention


class AnyAttention(ReferenceAttention):
    """A core attention that looks at each segment of a row alone."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        k_channels: int | None = None,  # noqa: ARG002  # Megatron gives both
        v_channels: int | None = None,  # noqa: ARG002
        **others: Any,
    ) -> None:
        """Take Megatron's arguments."""
        super().__init__(config, layer_number, attn_mask_type, attention_type, **others)
        has_window = is_layer_window_attention(
            config.window_size, config.window_attn_skip_freq, layer_number
        )
        left = config.window_size[0] if has_window else -1
        self.most_back: int | None = None if left < 0 else left
        """How many positions back a token sees."""
        self.has_sink = config.softmax_type != "vanilla"
        """Whether a score of 0 competes with those of keys, as learned sinks begin."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSeqParams) -> Tensor:
        """Compute attention within each segment of a row.

        Args:
            query: ``(positions, heads, channels)``.
            key: ``(positions, groups, channels)``.
            value: ``(positions, groups, channels of values)``.
            packed: Megatron's description of the row.

        Returns:
            ``(positions, heads, channels of values)``.
        """
        lengths = torch.diff(packed.cu_seqlens_q).tolist()
        parts = (tensor.split(lengths) for tensor in (query, key, value))
        return torch.cat([self._within(*segment) for segment in zip(*parts, strict=True)])

    def _within(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        times = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(times, dim=1) for tensor in (key, value))
        scores = torch.einsum("qhc,khc->hqk", query, key).float() * self.softmax_scale
        places = torch.arange(len(query), device=query.device)
        back = places[:, None] - places
        hidden = back < 0
        if self.most_back is not None:
            hidden |= back > self.most_back
        scores = scores.masked_fill(hidden, float("-inf"))
        if self.has_sink:
            scores = torch.nn.functional.pad(scores, (0, 1))
        weights = scores.softmax(-1)[..., : len(key)].to(value.dtype)
        return torch.einsum("hqk,khc->qhc", weights, value)
