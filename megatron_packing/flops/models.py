# SPDX-License-Identifier: Apache-2.0
"""Known models."""

from __future__ import annotations

from megatron_packing.flops.model import ModelShape


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


MODELS: dict[str, ModelShape] = {
    # Table 3 of arXiv 2407.21783.
    "8b": _llama_3("8B", 32, 4_096, 14_336, 32),
    "70b": _llama_3("70B", 80, 8_192, 28_672, 64),
    "405b": _llama_3("405B", 126, 16_384, 53_248, 128),
    # arXiv 2504.03624; the order of layers is that of Megatron-Bridge's recipe.
    "nemotron-h-8b": ModelShape(
        name="Nemotron-H 8B",
        num_layers=52,
        hidden_size=4_096,
        ffn_hidden_size=21_504,
        num_heads=32,
        num_query_groups=8,
        vocabulary_size=131_072,
        gated_mlp=False,
        hybrid_layer_pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
        mamba_num_heads=128,
    ),
    # Megatron-Bridge's recipe (recipes/nemotronh/h100/nemotron_3_nano.py).
    "nemotron-3-nano": ModelShape(
        name="Nemotron 3 Nano 30B-A3B",
        num_layers=52,
        hidden_size=2_688,
        ffn_hidden_size=1_856,
        num_heads=32,
        num_query_groups=2,
        kv_channels=128,
        vocabulary_size=131_072,
        gated_mlp=False,
        hybrid_layer_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
        mamba_num_heads=64,
        moe_router_topk=6,
        moe_ffn_hidden_size=1_856,
        moe_shared_expert_intermediate_size=3_712,
    ),
    # Qwen3NextConfig of Hugging Face's transformers.
    "qwen3-next": ModelShape(
        name="Qwen3-Next 80B-A3B",
        num_layers=96,
        hidden_size=2_048,
        ffn_hidden_size=5_120,
        num_heads=16,
        num_query_groups=2,
        kv_channels=256,
        vocabulary_size=151_936,
        attention_output_gate=True,
        hybrid_layer_pattern="GEGEGE*E" * 12,
        moe_router_topk=10,
        moe_ffn_hidden_size=512,
        moe_shared_expert_intermediate_size=512,
    ),
}
