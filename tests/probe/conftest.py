# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import write_corpus

VOCABULARY = 64


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The folder of a tiny Llama whose attention is far from uniform."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    generator = torch.Generator().manual_seed(5)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.normal_(std=0.4, generator=generator)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path):
    lengths = np.random.default_rng(1).integers(6, 30, 40)
    return write_corpus(tmp_path / "corpus", lengths, vocabulary=VOCABULARY)
