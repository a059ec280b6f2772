# SPDX-License-Identifier: Apache-2.0
"""What an epoch costs a model, in floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_packing.errors import InputError

_FORWARD_AND_BACKWARD = 3  # forward, gradient of the input, gradient of the weight
_MULTIPLY_ADD = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A dense decoder: grouped-query attention, causal; SwiGLU; untied logits.

    The counts are those of ``num_floating_point_operations`` in Megatron-LM's
    ``megatron/training/training.py``, which follow arXiv 2205.05198: matrix products alone, the
    backward pass twice the forward one, half of the attention matrix, nothing recomputed.
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
            InputError: A size is below 1, or one that must be a multiple of another is not.
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
    def linear_flops_per_position(self) -> int:
        """Of projections, MLPs and logits, forward and backward; padding costs as much as text."""
        key_value_size = self.hidden_size // self.num_heads * self.num_query_groups
        query_and_output = 2 * self.hidden_size**2
        keys_and_values = 2 * self.hidden_size * key_value_size
        mlp = 3 * self.hidden_size * self.ffn_hidden_size
        logits = self.hidden_size * self.vocabulary_size
        weights = self.num_layers * (query_and_output + keys_and_values + mlp) + logits
        return _FORWARD_AND_BACKWARD * _MULTIPLY_ADD * weights

    @property
    def attention_flops_per_square(self) -> int:
        """Of scores and weighted values, forward and backward, for each unit of length squared."""
        # Two products of length**2 * hidden_size, of which the causal mask leaves a half.
        return _FORWARD_AND_BACKWARD * _MULTIPLY_ADD * self.num_layers * self.hidden_size

    def epoch_flops(self, num_rows: int, sequence_length: int, attention_work: int) -> int:
        """Of an epoch: every position of every row in linear layers, attention as given.

        Args:
            num_rows: Rows in the epoch.
            sequence_length: Positions in a row.
            attention_work: Sum of the squares of the lengths within which there is attention.
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
