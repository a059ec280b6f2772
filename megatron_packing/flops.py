# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a layer, a row and an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError

_FORWARD_AND_BACKWARD = 3  # forward, gradient of the input, gradient of the weight
_MULTIPLY_ADD = 2


@dataclass(frozen=True, slots=True)
class WorkModel:
    """Work of a row in an arbitrary unit: linear layers plus attention.

    All rows have equally many tokens, so only attention differs between ranks. The ratio of the two
    numbers says how much that matters for a step. It does not change which deal is best.
    """

    per_token: int
    """Work of one token in the linear layers."""
    per_squared_length: int
    """Work of causal attention over a segment, divided by its squared length."""

    def __post_init__(self) -> None:
        if self.per_token < 0 or self.per_squared_length < 1:
            raise ValueError(
                f"per_token is {self.per_token} and per_squared_length {self.per_squared_length}; "
                f"they must be at least 0 and 1"
            )

    def work(self, segment_lengths: NDArray[np.int64]) -> int:
        """Compute the work of a row.

        Args:
            segment_lengths: Shape ``(num_segments,)``: positions of each segment, including the
                tail.
        """
        squares = int(np.dot(segment_lengths, segment_lengths))
        return self.per_token * int(segment_lengths.sum()) + self.per_squared_length * squares


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerShape:
    """A transformer layer: causal attention with grouped queries, and an MLP.

    The counts follow ``num_floating_point_operations`` in Megatron-LM's
    ``megatron/training/training.py``, after arXiv 2104.04473 (appendix) and arXiv 2205.05198: two
    operations for each weight and position, half of the attention matrix.
    """

    hidden_size: int
    ffn_hidden_size: int
    num_heads: int
    num_query_groups: int
    kv_channels: int
    """Channels of a head."""
    gated: bool = True
    """Whether the MLP has a gate, as in SwiGLU: three matrices instead of two."""

    @property
    def linear_flops_per_position(self) -> int:
        """Forward operations of projections and MLP. A padding position costs as much as text."""
        query = self.num_heads * self.kv_channels
        key_and_value = 2 * self.num_query_groups * self.kv_channels
        attention = self.hidden_size * (query + key_and_value) + query * self.hidden_size
        mlp = (3 if self.gated else 2) * self.hidden_size * self.ffn_hidden_size
        return _MULTIPLY_ADD * (attention + mlp)

    @property
    def attention_flops_per_square(self) -> int:
        """Forward operations of attention, divided by the squared length."""
        # Two products of length**2 * heads * channels; the causal mask leaves half of each.
        return _MULTIPLY_ADD * self.num_heads * self.kv_channels

    def work_model(self) -> WorkModel:
        """Work model in the largest unit in which both numbers are integers."""
        numbers = self.linear_flops_per_position, self.attention_flops_per_square
        unit = gcd(*numbers)
        return WorkModel(numbers[0] // unit, numbers[1] // unit)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A dense decoder with SwiGLU and untied logits.

    Only matrix products count. The backward pass costs twice the forward pass, without
    recomputation.
    """

    name: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_heads: int
    num_query_groups: int
    vocabulary_size: int = 128_256

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            InputError: A size is below 1, or is not a multiple of the size that divides it.
        """
        sizes = {
            "layers": self.num_layers,
            "hidden size": self.hidden_size,
            "FFN hidden size": self.ffn_hidden_size,
            "heads": self.num_heads,
            "query groups": self.num_query_groups,
            "vocabulary size": self.vocabulary_size,
        }
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"the model's {name} is {size}; it must be at least 1")
        for name, divisor in (("hidden size", "heads"), ("heads", "query groups")):
            if sizes[name] % sizes[divisor]:
                raise InputError(
                    f"the model's {name} is {sizes[name]}; it must be a multiple of its "
                    f"{divisor}, which is {sizes[divisor]}"
                )

    @property
    def layer(self) -> LayerShape:
        """Shape of one layer."""
        return LayerShape(
            hidden_size=self.hidden_size,
            ffn_hidden_size=self.ffn_hidden_size,
            num_heads=self.num_heads,
            num_query_groups=self.num_query_groups,
            kv_channels=self.hidden_size // self.num_heads,
        )

    @property
    def linear_flops_per_position(self) -> int:
        """Forward and backward operations of projections, MLPs and logits."""
        logits = _MULTIPLY_ADD * self.hidden_size * self.vocabulary_size
        return _FORWARD_AND_BACKWARD * (
            self.num_layers * self.layer.linear_flops_per_position + logits
        )

    @property
    def attention_flops_per_square(self) -> int:
        """Forward and backward operations of attention, divided by the squared length."""
        return _FORWARD_AND_BACKWARD * self.num_layers * self.layer.attention_flops_per_square

    def epoch_flops(self, num_rows: int, sequence_length: int, attention_work: int) -> int:
        """Operations of an epoch: linear layers over whole rows, plus attention.

        Args:
            num_rows: Rows in the epoch.
            sequence_length: Positions in a row.
            attention_work: Sum of squared lengths of the spans that attend within themselves.
        """
        linear = self.linear_flops_per_position * num_rows * sequence_length
        return linear + self.attention_flops_per_square * attention_work


def _llama_3(size: str, *shape: int) -> ModelShape:
    num_layers, hidden_size, ffn_hidden_size, num_heads = shape
    return ModelShape(
        name=f"Llama 3 {size}",
        num_layers=num_layers,
        hidden_size=hidden_size,
        ffn_hidden_size=ffn_hidden_size,
        num_heads=num_heads,
        num_query_groups=8,
    )


MODELS: dict[str, ModelShape] = {  # table 3 of arXiv 2407.21783
    "8b": _llama_3("8B", 32, 4_096, 14_336, 32),
    "70b": _llama_3("70B", 80, 8_192, 28_672, 64),
    "405b": _llama_3("405B", 126, 16_384, 53_248, 128),
}
