# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a model, and the work of a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError
from megatron_packing.flops.layers import (
    Attention,
    Experts,
    GatedDeltaNet,
    Layer,
    Mamba,
    Mlp,
)

_Number = TypeVar("_Number", int, NDArray[Any])
_FORWARD_AND_BACKWARD = 3  # forward, gradient of the input, gradient of the weight
_MULTIPLY_ADD = 2
_STAGE_BOUNDARY = "|"
LAYER_NAMES: Mapping[str, str] = {
    "M": "Mamba",
    "G": "gated delta net",
    "*": "attention",
    "-": "MLP",
    "E": "experts",
}
"""The layers of a hybrid pattern, by Megatron's symbols (``hybrid_layer_allocation.py``)."""


@dataclass(frozen=True, slots=True)
class WorkModel:
    """Work of a row in an arbitrary unit: layers that are linear in the length, plus attention.

    All rows have equally many tokens, so only attention differs between ranks. The ratio of the two
    numbers says how much that matters for a step. It does not change which deal is best.
    """

    per_token: int
    """Work of one token in the layers that are linear in the length."""
    per_squared_length: int
    """Work of causal attention over a segment, divided by its squared length; 0 without any."""

    def __post_init__(self) -> None:
        if self.per_token < 0 or self.per_squared_length < 0:
            raise ValueError(
                f"per_token is {self.per_token} and per_squared_length {self.per_squared_length}; "
                f"they must be at least 0"
            )

    def work(self, segment_lengths: NDArray[np.int64]) -> int:
        """Compute the work of a row.

        Args:
            segment_lengths: Shape ``(num_segments,)``: positions of each segment, including the
                tail.
        """
        squares = int(np.dot(segment_lengths, segment_lengths))
        return self.total(int(segment_lengths.sum()), squares)

    def total(self, positions: _Number, squares: _Number) -> _Number:
        """Compute the work of rows.

        Args:
            positions: Positions that linear layers compute: of one row, or an array of rows.
            squares: The sum of squared segment lengths, likewise.
        """
        work: _Number = self.per_token * positions + self.per_squared_length * squares
        return work


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A decoder with untied logits: transformer layers, or the layers of a hybrid pattern.

    Only matrix products and recurrences count. The backward pass costs twice the forward pass,
    without recomputation. Names and defaults of sizes that only hybrid models have are those of
    Megatron's arguments.
    """

    name: str
    num_layers: int
    """Transformer layers, each attention and an MLP; or the layers of the pattern."""
    hidden_size: int
    ffn_hidden_size: int
    num_heads: int
    num_query_groups: int
    vocabulary_size: int = 128_256
    kv_channels: int | None = None
    """Channels of a head of attention; None: the hidden size divided by the heads."""
    attention_output_gate: bool = False
    gated_mlp: bool = True
    """Whether MLPs and experts have a gate, as in SwiGLU."""
    hybrid_layer_pattern: str = ""
    """A symbol for each layer, as ``LAYER_NAMES``; empty for transformer layers."""
    mamba_state_dim: int = 128
    mamba_head_dim: int = 64
    mamba_num_groups: int = 8
    mamba_num_heads: int | None = None
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    linear_conv_kernel_dim: int = 4
    moe_router_topk: int = 2
    moe_ffn_hidden_size: int | None = None
    """None: ``ffn_hidden_size``."""
    moe_shared_expert_intermediate_size: int = 0
    mtp_num_layers: int = 0
    """Layers of multi-token prediction, each a transformer layer, a projection and logits."""

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            InputError: A size is below 1, or is not a multiple of the size that divides it; or the
                pattern has a symbol that is unknown or refused.
        """
        sizes = {
            "layers": self.num_layers,
            "hidden size": self.hidden_size,
            "FFN hidden size": self.ffn_hidden_size,
            "heads": self.num_heads,
            "query groups": self.num_query_groups,
            "vocabulary size": self.vocabulary_size,
            "channels of a head": self.head_channels,
            "Mamba state size": self.mamba_state_dim,
            "Mamba head size": self.mamba_head_dim,
            "Mamba groups": self.mamba_num_groups,
            "Mamba heads": 1 if self.mamba_num_heads is None else self.mamba_num_heads,
            "linear key head size": self.linear_key_head_dim,
            "linear value head size": self.linear_value_head_dim,
            "linear key heads": self.linear_num_key_heads,
            "linear value heads": self.linear_num_value_heads,
            "experts of a position": self.moe_router_topk,
            "expert FFN hidden size": (
                1 if self.moe_ffn_hidden_size is None else self.moe_ffn_hidden_size
            ),
        }
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"the model's {name} is {size}; it must be at least 1")
        if self.mtp_num_layers < 0:
            raise InputError(
                f"the model's layers of multi-token prediction are {self.mtp_num_layers}; they "
                f"must be at least 0"
            )
        if self.moe_shared_expert_intermediate_size < 0:
            raise InputError(
                f"the model's shared expert FFN hidden size is "
                f"{self.moe_shared_expert_intermediate_size}; it must be at least 0"
            )
        divided = [("heads", "query groups")]
        if self.kv_channels is None:
            divided.insert(0, ("hidden size", "heads"))
        for name, divisor in divided:
            if sizes[name] % sizes[divisor]:
                raise InputError(
                    f"the model's {name} is {sizes[name]}; it must be a multiple of its "
                    f"{divisor}, which is {sizes[divisor]}"
                )
        if self.hybrid_layer_pattern:
            count = sum(count_layers(self.hybrid_layer_pattern).values())
            if count != self.num_layers:
                raise InputError(
                    f"the model has {self.num_layers} layers, but its hybrid layer pattern has "
                    f"{count}; give the pattern alone"
                )

    @property
    def head_channels(self) -> int:
        """Channels of a head of attention."""
        return self.hidden_size // self.num_heads if self.kv_channels is None else self.kv_channels

    @property
    def attention(self) -> Attention:
        """A layer of attention."""
        return Attention(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_query_groups=self.num_query_groups,
            kv_channels=self.head_channels,
            output_gate=self.attention_output_gate,
        )

    @property
    def layer_counts(self) -> dict[str, int]:
        """Layers of each kind, by their symbols; a transformer layer is attention and an MLP."""
        if self.hybrid_layer_pattern:
            return count_layers(self.hybrid_layer_pattern)
        return {"*": self.num_layers, "-": self.num_layers}

    def layer(self, symbol: str) -> Layer:
        """Return the layer of a symbol of ``LAYER_NAMES``."""
        match symbol:
            case "*":
                return self.attention
            case "-":
                return Mlp(
                    hidden_size=self.hidden_size,
                    ffn_hidden_size=self.ffn_hidden_size,
                    gated=self.gated_mlp,
                )
            case "E":
                return Experts(
                    hidden_size=self.hidden_size,
                    ffn_hidden_size=self.moe_ffn_hidden_size or self.ffn_hidden_size,
                    per_position=self.moe_router_topk,
                    shared_ffn_hidden_size=self.moe_shared_expert_intermediate_size,
                    gated=self.gated_mlp,
                )
            case "M":
                return Mamba(
                    hidden_size=self.hidden_size,
                    state_dim=self.mamba_state_dim,
                    head_dim=self.mamba_head_dim,
                    num_groups=self.mamba_num_groups,
                    num_heads=self.mamba_num_heads,
                )
            case "G":
                return GatedDeltaNet(
                    hidden_size=self.hidden_size,
                    key_head_dim=self.linear_key_head_dim,
                    value_head_dim=self.linear_value_head_dim,
                    num_key_heads=self.linear_num_key_heads,
                    num_value_heads=self.linear_num_value_heads,
                    conv_kernel_dim=self.linear_conv_kernel_dim,
                )
        raise ValueError(f"{symbol!r} is not in LAYER_NAMES")

    @property
    def linear_flops_per_position(self) -> int:
        """Forward and backward operations of everything but attention over documents.

        A padding position costs as much as text.
        """
        logits = _MULTIPLY_ADD * self.hidden_size * self.vocabulary_size
        return _FORWARD_AND_BACKWARD * (self._layer_flops()[0] + (1 + self.mtp_num_layers) * logits)

    @property
    def attention_flops_per_square(self) -> int:
        """Forward and backward operations of attention, divided by the squared length."""
        return _FORWARD_AND_BACKWARD * self._layer_flops()[1]

    def epoch_flops(self, num_rows: int, sequence_length: int, attention_work: int) -> int:
        """Operations of an epoch: what is linear in the length over whole rows, plus attention.

        Args:
            num_rows: Rows in the epoch.
            sequence_length: Positions in a row.
            attention_work: Sum of squared lengths of the spans that attend within themselves.
        """
        linear = self.linear_flops_per_position * num_rows * sequence_length
        return linear + self.attention_flops_per_square * attention_work

    def work_model(self) -> WorkModel:
        """Work model of the layers, in the largest unit in which both numbers are integers."""
        numbers = self._layer_flops()
        unit = gcd(*numbers)
        return WorkModel(numbers[0] // unit, numbers[1] // unit)

    def _layer_flops(self) -> tuple[int, int]:
        """Forward operations of all layers: for each position, and for each squared length."""
        layers = [(count, self.layer(symbol)) for symbol, count in self.layer_counts.items()]
        layers += [(self.mtp_num_layers, self.layer(symbol)) for symbol in ("*", "-")]
        # Each projects the hidden state and the next token's embedding.
        projection = _MULTIPLY_ADD * 2 * self.hidden_size**2 * self.mtp_num_layers
        return (
            sum(count * layer.linear_flops_per_position for count, layer in layers) + projection,
            sum(count * layer.attention_flops_per_square for count, layer in layers),
        )


def count_layers(pattern: str) -> dict[str, int]:
    """Return how many layers of each kind a hybrid pattern has, by their symbols.

    Args:
        pattern: As Megatron's ``--hybrid-layer-pattern``; ``|`` separates pipeline stages.

    Raises:
        InputError: The pattern is empty, or has a symbol without a count of operations.
    """
    counts = Counter(pattern.replace(_STAGE_BOUNDARY, ""))
    unknown = "".join(symbol for symbol in counts if symbol not in LAYER_NAMES)
    if unknown or not counts:
        known = ", ".join(f"{symbol} ({name})" for symbol, name in LAYER_NAMES.items())
        found = f"has {unknown!r}" if unknown else "has no layer"
        raise InputError(
            f"the hybrid layer pattern {pattern!r} {found}, but operations are counted for "
            f"{known}, with | between pipeline stages; give a pattern of these"
        )
    return dict(counts)
