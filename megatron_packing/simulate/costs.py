# SPDX-License-Identifier: Apache-2.0
"""Seconds and bytes of a model on a GPU, by the work of a row.

Operations are those of ``flops``. Communication follows Megatron with sequence parallelism: two
all-gathers and two reduce-scatters of a layer's activations in each direction (arXiv 2205.05198),
keys and values around the ring of context parallelism behind attention, two all-to-alls of an
expert layer in each direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_packing.errors import InputError
from megatron_packing.flops.model import ModelShape
from megatron_packing.planning.rows import Rows
from megatron_packing.simulate.hardware import GPUS_PER_NODE, Device
from megatron_packing.simulate.layout import Layout

_BF16 = 2
_FLOAT32 = 4
_GRADIENT_BYTES = _FLOAT32  # Megatron adds up and reduces gradients in float32
_OPTIMIZER_BYTES = 12  # Adam: two moments and the parameters in float32
_OPTIMIZER_TRAFFIC = 30  # of a parameter: what a step of Adam reads and writes
_SHARE_OF_MEMORY = 0.9  # the rest is fragmentation, kernels' workspace and NCCL's buffers


def refuse_hybrid(model: ModelShape) -> None:
    """Refuse a model of other layers than attention with an MLP.

    Raises:
        InputError: It has a hybrid layer pattern, or layers of multi-token prediction.
    """
    if model.mtp_num_layers:
        raise InputError(
            f"the model has {model.mtp_num_layers} layers of multi-token prediction, but steps are "
            f"predicted for transformer layers alone; leave them out"
        )
    if model.hybrid_layer_pattern:
        raise InputError(
            f"the model has the hybrid layer pattern {model.hybrid_layer_pattern}, but steps are "
            f"predicted for transformer layers alone; give another --model, or use compare, which "
            f"counts the operations of any pattern"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """What makes a dense shape one with experts: every MLP is one of several."""

    number: int = 1
    """Experts of a layer."""
    per_token: int = 1
    """Experts that each token is sent to."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: There are more experts for a token than there are.
        """
        if not 1 <= self.per_token <= self.number:
            raise InputError(
                f"each token goes to {self.per_token} of {self.number} experts; it must be at "
                f"least 1 and no more than there are"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PassSeconds:
    """What a pass of a micro-batch takes, by cause; arrays of one shape."""

    linear: NDArray[np.float64]
    """Linear layers."""
    attention: NDArray[np.float64]
    """Attention within documents, or waiting for the keys and values of other ranks."""
    communication: NDArray[np.float64]
    """Tensor and expert parallelism."""
    overhead: NDArray[np.float64]
    """What does not depend on lengths."""

    @property
    def total(self) -> NDArray[np.float64]:
        """Seconds of the pass."""
        total: NDArray[np.float64] = (
            self.linear + self.attention + self.communication + self.overhead
        )
        return total


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """A model in a layout on a GPU."""

    model: ModelShape
    layout: Layout
    device: Device
    experts: Experts = Experts()
    recompute: bool = False
    """Whether the backward pass computes each layer's forward pass again."""

    def __post_init__(self) -> None:
        """Check that the sizes fit each other.

        Raises:
            InputError: Heads, layers or experts cannot be shared as the layout asks, or the model
                is a hybrid one.
        """
        refuse_hybrid(self.model)
        self.layout.layers_of_chunks(self.model)
        if self.model.num_heads % self.layout.tensor:
            raise InputError(
                f"{self.model.num_heads} attention heads cannot be shared by "
                f"{self.layout.tensor} tensor-parallel ranks; choose a divisor"
            )
        if self.experts.number % self.layout.expert:
            raise InputError(
                f"{self.experts.number} experts cannot be shared by {self.layout.expert} "
                f"expert-parallel ranks; choose a divisor, and give the number of experts"
            )

    @property
    def _computed_width(self) -> int:
        """FFN hidden size that a token is computed with."""
        return self.model.ffn_hidden_size * self.experts.per_token

    @property
    def _matrices(self) -> int:
        """Of an MLP."""
        return 3 if self.model.gated_mlp else 2

    def forward(self, rows: Rows, layers: int, *, has_logits: bool) -> PassSeconds:
        """Seconds of the forward pass of rows through a model chunk."""
        return self._seconds(rows, layers, 1.0, 1.0, has_logits=has_logits)

    def backward(self, rows: Rows, layers: int, *, has_logits: bool) -> PassSeconds:
        """Seconds of the backward pass of rows through a model chunk: twice the operations."""
        again = 1.0 if self.recompute else 0.0
        return self._seconds(rows, layers, 2.0 + again, 1.0 + again, has_logits=has_logits)

    def _seconds(
        self, rows: Rows, layers: int, times: float, exchanges: float, *, has_logits: bool
    ) -> PassSeconds:
        """``times`` the operations of a forward pass and ``exchanges`` its communication."""
        layout, device, layer = self.layout, self.device, self.model.attention
        split = layout.tensor * layout.context
        mlp = 2 * self._matrices * self.model.hidden_size * self._computed_width
        linear_flops = times * layers * (layer.linear_flops_per_position + mlp)
        if has_logits:
            linear_flops += (
                min(times, 2.0) * 2 * self.model.hidden_size * self.model.vocabulary_size
            )
        linear = linear_flops / split / (device.flops * device.linear_efficiency) * rows.positions
        attention = (
            times
            * layers
            * layer.attention_flops_per_square
            / split
            / (device.flops * device.attention_efficiency)
            * rows.squares
        )
        # Keys and values pass around the ring while attention computes.
        keys = 2 * layer.num_query_groups * layer.kv_channels / layout.tensor * _BF16
        ring = (layout.context - 1) / layout.context * keys * layers * times
        attention = np.maximum(attention, ring / self._link(split) * rows.positions)
        local = self.model.hidden_size * _BF16 / layout.context  # bytes of a position of the row
        gathers = 4 * exchanges * layers * local * (layout.tensor - 1) / layout.tensor
        communication = gathers / self._link(layout.tensor) * rows.positions
        if layout.expert > 1:
            sent = local / layout.tensor * self.experts.per_token
            sent *= 2 * exchanges * layers * (layout.expert - 1) / layout.expert
            reach = layout.tensor * max(layout.context, layout.expert)
            communication = communication + sent / self._link(reach) * rows.positions
        share = times / 3.0
        overhead = device.layer_seconds + device.document_seconds * rows.documents
        return PassSeconds(
            linear=linear,
            attention=attention,
            communication=communication,
            overhead=overhead * layers * share,
        )

    def transfer_seconds(self, sequence_length: int) -> float:
        """Seconds in which a row's activations go from one pipeline stage to the next."""
        if self.layout.pipeline == 1:
            return 0.0
        split = self.layout.tensor * self.layout.context
        sent = sequence_length / split * self.model.hidden_size * _BF16
        return sent / self._link(self.layout.gpus)

    def gradient_seconds(self) -> float:
        """Seconds in which gradients are reduced over data-parallel ranks; nothing else runs."""
        return self._collective_seconds(_GRADIENT_BYTES)

    def parameter_seconds(self) -> float:
        """Seconds in which updated parameters are gathered; nothing else runs."""
        return self._collective_seconds(_BF16)

    def optimizer_seconds(self) -> float:
        """Seconds in which a rank updates its share of the parameters."""
        share = self.parameters_of_a_gpu() / self._replicas
        return _OPTIMIZER_TRAFFIC * share / self.device.memory_bandwidth

    def _collective_seconds(self, bytes_of_a_parameter: int) -> float:
        replicas = self._replicas
        sent = bytes_of_a_parameter * self.parameters_of_a_gpu() * (replicas - 1) / replicas
        return sent / self._link(self.layout.tensor * replicas)

    @property
    def _replicas(self) -> int:
        """Ranks that hold the same parameters; context-parallel ones are among them."""
        return self.layout.data * self.layout.context

    def parameters_of_a_gpu(self) -> float:
        """Parameters on the GPU that has the most."""
        layout, hidden = self.layout, self.model.hidden_size
        mlp = self._matrices * hidden * self.model.ffn_hidden_size
        dense = self.model.attention.linear_flops_per_position / 2
        expert_share = self.experts.number / layout.expert
        layers = max(map(sum, layout.layers_of_chunks(self.model)))
        vocabulary = hidden * self.model.vocabulary_size * (2 if layout.pipeline == 1 else 1)
        return (layers * (dense + mlp * expert_share) + vocabulary) / layout.tensor

    def memory(self, sequence_length: int) -> float:
        """Bytes that the fullest GPU needs: an estimate from the sizes of tensors.

        A layer keeps 2 × (4 hidden + 2 query + keys + values + 3 FFN) bytes of a position for its
        backward pass where attention is fused, or its input alone where it is recomputed.
        """
        layout, layer = self.layout, self.model.attention
        query = layer.num_heads * layer.kv_channels
        keys_and_values = 2 * layer.num_query_groups * layer.kv_channels
        kept = 4 * layer.hidden_size + 2 * query + keys_and_values
        kept += self._matrices * self._computed_width
        positions = sequence_length / layout.context / layout.tensor
        stage_layers = max(map(sum, layout.layers_of_chunks(self.model)))
        in_flight = float(layout.pipeline)
        if layout.virtual > 1:
            in_flight *= 1 + (layout.pipeline - 1) / (layout.pipeline * layout.virtual)
        whole = stage_layers * in_flight * _BF16 * kept * positions
        inputs = stage_layers * in_flight * _BF16 * layer.hidden_size * positions
        activations = inputs + _BF16 * kept * positions if self.recompute else whole
        logits = (_BF16 + _FLOAT32) * self.model.vocabulary_size * positions
        last = activations / in_flight + logits
        parameters = self.parameters_of_a_gpu()
        states = _BF16 + _GRADIENT_BYTES + _OPTIMIZER_BYTES / self._replicas
        return parameters * states + max(activations, last)

    def fits(self, sequence_length: int) -> bool:
        """Whether the memory of the GPU is likely to be enough."""
        return self.memory(sequence_length) <= _SHARE_OF_MEMORY * self.device.memory

    def _link(self, ranks: int) -> float:
        """Bytes a second between neighbors of a group that spans so many consecutive GPUs."""
        within = ranks <= GPUS_PER_NODE
        return self.device.node_bandwidth if within else self.device.network_bandwidth
