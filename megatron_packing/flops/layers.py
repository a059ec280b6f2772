# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of each kind of layer.

The counts follow ``num_floating_point_operations`` in Megatron-LM's
``megatron/training/training.py``: two operations for each weight and position, half of the
attention matrix. Only attention depends on the lengths of documents. All other layers, recurrent
ones included, cost the same for every position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

_MULTIPLY_ADD = 2
_MAMBA_EXPANSION = 2  # channels for each of the hidden size, where no number of heads is given
_SCAN = 7  # operations for each channel and state of a Mamba layer, as Megatron estimates them
_DELTA_RULE = 4  # matrix products of the gated delta rule for each head


class Layer(ABC):
    """A layer's forward operations."""

    __slots__ = ()

    @property
    @abstractmethod
    def linear_flops_per_position(self) -> int:
        """Operations for each position, of text or padding."""

    @property
    def attention_flops_per_square(self) -> int:
        """Operations that grow with the square of a document's length, divided by that square."""
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention(Layer):
    """Causal attention with grouped queries: arXiv 2104.04473 (appendix), arXiv 2205.05198."""

    hidden_size: int
    num_heads: int
    num_query_groups: int
    kv_channels: int
    """Channels of a head."""
    output_gate: bool = False
    """Whether the output has a gate, which is as wide as the queries."""

    @property
    def linear_flops_per_position(self) -> int:
        """Of the projections."""
        query = self.num_heads * self.kv_channels
        key_and_value = 2 * self.num_query_groups * self.kv_channels
        gate = query if self.output_gate else 0
        return _MULTIPLY_ADD * self.hidden_size * (query + key_and_value + gate + query)

    @property
    def attention_flops_per_square(self) -> int:
        """Of queries times keys, and of scores times values."""
        # Two products of length**2 * heads * channels; the causal mask leaves half of each.
        return _MULTIPLY_ADD * self.num_heads * self.kv_channels


@dataclass(frozen=True, kw_only=True, slots=True)
class Mlp(Layer):
    """An MLP."""

    hidden_size: int
    ffn_hidden_size: int
    gated: bool = True
    """Whether it has a gate, as in SwiGLU: three matrices instead of two."""

    @property
    def linear_flops_per_position(self) -> int:
        """Of the matrices."""
        return _MULTIPLY_ADD * (3 if self.gated else 2) * self.hidden_size * self.ffn_hidden_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts(Layer):
    """A mixture of experts. Each is an MLP; the router is left out."""

    hidden_size: int
    ffn_hidden_size: int
    """Of one expert."""
    per_position: int
    """Experts that compute a position."""
    shared_ffn_hidden_size: int
    """Of the experts that compute every position; 0 without them."""
    gated: bool = True

    @property
    def linear_flops_per_position(self) -> int:
        """Of the matrices."""
        width = self.per_position * self.ffn_hidden_size + self.shared_ffn_hidden_size
        return _MULTIPLY_ADD * (3 if self.gated else 2) * self.hidden_size * width


@dataclass(frozen=True, kw_only=True, slots=True)
class Mamba(Layer):
    """A Mamba-2 layer; the short convolution is left out.

    Megatron's count takes twice the hidden size for the channels, even where ``num_heads`` gives
    another number. Here they are those that the layer has (``ssm/mamba_mixer.py``).
    """

    hidden_size: int
    state_dim: int
    head_dim: int
    num_groups: int
    num_heads: int | None
    """None: as many as give twice the hidden size."""

    @property
    def linear_flops_per_position(self) -> int:
        """Of the projections and the scan."""
        heads = self.num_heads or _MAMBA_EXPANSION * self.hidden_size // self.head_dim
        channels = heads * self.head_dim
        projected = 2 * channels + 2 * self.num_groups * self.state_dim + heads
        products = self.hidden_size * projected + channels * self.hidden_size
        return _MULTIPLY_ADD * products + _SCAN * channels * self.state_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedDeltaNet(Layer):
    """A gated delta net layer."""

    hidden_size: int
    key_head_dim: int
    value_head_dim: int
    num_key_heads: int
    num_value_heads: int
    conv_kernel_dim: int

    @property
    def linear_flops_per_position(self) -> int:
        """Of the projections, the convolution and the gated delta rule."""
        key = self.key_head_dim * self.num_key_heads
        value = self.value_head_dim * self.num_value_heads
        return _MULTIPLY_ADD * (
            self.hidden_size * (2 * key + 2 * value + 2 * self.num_value_heads)
            + self.conv_kernel_dim * (2 * key + value)
            + _DELTA_RULE * self.num_value_heads * self.value_head_dim**2
            + self.hidden_size * value
        )
