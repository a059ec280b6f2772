# SPDX-License-Identifier: Apache-2.0
"""Runs megatron-packing check-model for recipes and providers of Bridge, in one process.

    check_small_recipes.py CASES.json

As ``tests.megatron.check_small_models``; it also has recipes and providers of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.bridge.absent import prepare_bridge

prepare_bridge()

from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.models.hybrid.hybrid_provider import HybridModelProvider
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

from tests.megatron import plain_mamba
from tests.megatron.check_small_models import run


def experts() -> SimpleNamespace:
    """What recipes are, as far as the check looks: with a model, and large."""
    model = GPTModelProvider(
        num_layers=48,
        hidden_size=2048,
        num_attention_heads=32,
        num_query_groups=4,
        kv_channels=128,
        num_moe_experts=128,
        moe_router_topk=8,
        moe_ffn_hidden_size=768,
        moe_grouped_gemm=True,
        normalization="RMSNorm",
        qk_layernorm=True,
        gated_linear_unit=True,
        add_bias_linear=False,
        position_embedding_type="rope",
        tensor_model_parallel_size=4,
        sequence_parallel=True,
        vocab_size=151936,
        bf16=True,
    )
    return SimpleNamespace(model=model)


def hybrid() -> HybridModelProvider:
    return HybridModelProvider(
        hybrid_layer_pattern="M-M-M-M*-M-M-M-M*-",
        hidden_size=4096,
        num_attention_heads=32,
        num_query_groups=8,
        ffn_hidden_size=16384,
        vocab_size=131072,
    )


def own_layers() -> GPTModelProvider:
    def sandwich_layers(_: GPTModelProvider) -> object:
        return get_gpt_layer_local_spec()

    return GPTModelProvider(
        num_layers=2, hidden_size=64, num_attention_heads=4, transformer_layer_spec=sandwich_layers
    )


def unreachable() -> None:
    raise OSError("We couldn't connect to 'https://huggingface.co'")


if __name__ == "__main__":
    sys.modules["small_recipes"] = sys.modules["__main__"]
    plain_mamba.install()
    cases = json.loads(Path(sys.argv[1]).read_text())
    answers = [run(case["words"], case.get("bug")) for case in cases]
    sys.stdout.write(f"ANSWERS {json.dumps(answers)}\n")
