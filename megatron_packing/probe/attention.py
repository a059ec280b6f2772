# SPDX-License-Identifier: Apache-2.0
"""Attention for models of transformers that records what it is given to."""

from __future__ import annotations

from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor
from torch.nn.functional import one_hot, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from megatron_packing.errors import InputError
from megatron_packing.probe.result import TARGETS

RECORDED = "megatron_packing_probe"
"""The name of the attention among those of transformers."""


class Recorder:
    """Adds up the attention of the last positions of rows, for each layer and head."""

    def __init__(self) -> None:
        self.shares: list[Tensor] = []
        """Of each layer of the last row: ``(heads, targets)``, float32."""
        self.uniform = torch.zeros(len(TARGETS))
        """The same if all positions up to a query got equal attention."""
        self._kinds = torch.zeros(0, 0)
        self._num_queries = 0

    def start_row(self, targets: Tensor, num_queries: int) -> None:
        """Begin a row.

        Args:
            targets: Shape ``(positions,)``: the target that each position is.
            num_queries: The attention of so many positions, the last ones, is recorded.
        """
        self.shares = []
        self._kinds = one_hot(targets, len(TARGETS)).float()
        self._num_queries = num_queries
        seen = self._kinds.cumsum(0)[-num_queries:]
        self.uniform = (seen / seen.sum(dim=1, keepdim=True)).mean(0)

    def add_layer(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Record a layer; tensors are ``(heads, positions, dim)``, with grouped query heads."""
        num_queries, num_keys = self._num_queries, key.shape[1]
        hidden = torch.ones(num_queries, num_keys, dtype=torch.bool, device=key.device)
        hidden = hidden.triu(num_keys - num_queries + 1)
        heads_per_key = query.shape[0] // key.shape[0]
        shares = []
        for head in range(query.shape[0]):  # one at a time: the weights of all may not fit
            scores = query[head, -num_queries:].float() @ key[head // heads_per_key].float().T
            weights = (scores * scaling).masked_fill(hidden, -torch.inf).softmax(dim=1)
            shares.append((weights @ self._kinds.to(key.device)).mean(0))
        self.shares.append(torch.stack(shares).cpu())


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    recorder: Recorder,
    scaling: float,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention over whole rows, and record it."""
    _refuse_other_attention(type(module).__name__, key.shape[2], settings)
    recorder.add_layer(query[0], key[0], scaling)
    output = scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return output.transpose(1, 2), None


def _refuse_other_attention(layer: str, num_keys: int, settings: dict[str, Any]) -> None:
    window = settings.get("sliding_window")
    if window is not None and window < num_keys:
        raise InputError(
            f"the checkpoint's layer {layer} attends only to the last {window} positions, and a "
            f"row has {num_keys}; give a --sequence-length of {window} or less"
        )
    for name in ("softcap", "s_aux"):
        if settings.get(name) is not None:
            raise InputError(
                f"the checkpoint's layer {layer} computes attention with {name}, which is not "
                f"supported; give a model with plain causal attention, such as Llama or Qwen"
            )


AttentionInterface.register(RECORDED, _attend)
AttentionMaskInterface.register(RECORDED, lambda *_, **__: None)
