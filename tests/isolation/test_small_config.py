# SPDX-License-Identifier: Apache-2.0
"""Configurations of large models become small, and keep all kinds of layers."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_packing.errors import InputError
from megatron_packing.isolation import causal_model
from megatron_packing.isolation.small_config import num_layers, shrink

KINDS = ("layer_types", "layers_block_type", "mlp_layer_types")
MODEL_TYPES = ("gemma3_text", "glm4_moe_lite", "jamba", "kimi_linear", "nemotron_h", "zamba2")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_small_model_has_all_kinds_of_layers_of_the_large_one(model_type):
    large = AutoConfig.for_model(model_type)
    small = shrink(large)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small)
    assert sum(one.numel() for one in model.parameters()) < 10_000_000
    assert num_layers(small) <= 12
    for name in KINDS:
        kinds = getattr(large, name, None)
        if kinds:
            assert set(getattr(small, name)) == set(kinds)
            assert len(getattr(small, name)) == num_layers(small)


def test_windows_are_shorter_than_documents_and_nothing_is_random():
    settings = {"sliding_window": 4096, "attention_dropout": 0.1, "num_key_value_heads": 8}
    small = shrink(AutoConfig.for_model("mistral", **settings))
    assert small.sliding_window == 8
    assert small.attention_dropout == 0
    assert (small.num_attention_heads, small.num_key_value_heads) == (4, 2)
    assert small.hidden_size == small.num_attention_heads * small.head_dim


def test_a_model_that_stays_large_is_refused(monkeypatch):
    monkeypatch.setattr(causal_model, "_MOST_PARAMETERS", 1_000)
    with pytest.raises(InputError, match=r"llama cannot be built small \(it still has 1\d\d,\d"):
        causal_model.find_model("llama", as_is=False)
