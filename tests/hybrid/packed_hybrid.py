# SPDX-License-Identifier: Apache-2.0
"""Trains hybrid models on packed rows on the CPU, with the real kernels of their layers.

Run by the tests beside it, in forked ranks. Attention and linear layers are Transformer Engine's:
see ``tests/te``. Prints one JSON object.

    alone MODEL ROW         each document of a row against the same document alone
    leak MODEL ROW          the same without seq_idx
    row MODEL ROW FILE      save the losses and gradients of a row on one rank
    shared MODEL ROW FILE   the same row under context parallelism, against FILE
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from tests.te.wheels import RELEASES

os.environ["PACKING_TEST_TE_RELEASE"] = RELEASES[0]

from tests.hybrid import kernels

kernels.install()

import torch

from tests.te.packed_through_te import (
    VOCABULARY,
    batch_of,
    gradients,
    losses,
    relative,
    sample_of,
    start,
)

kernels.prepare()

from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.ssm.mamba_mixer import MambaMixer
from megatron.core.transformer import TransformerConfig

from megatron_packing.thd.context_parallel import partition_indices

try:
    from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
        get_transformer_block_with_experimental_attention_variant_spec as block_spec,
    )
    from megatron.core.models.hybrid.hybrid_model import HybridModel

    from megatron_packing.megatron.hybrid_layer_spec import packed_hybrid_spec

    PATTERN = "hybrid_layer_pattern"
except ImportError:  # megatron-core 0.16
    from megatron.core.models.mamba import MambaModel as HybridModel
    from megatron.core.models.mamba.mamba_layer_specs import mamba_stack_spec

    PATTERN = "hybrid_override_pattern"

    def packed_hybrid_spec(_: TransformerConfig) -> Any:
        return mamba_stack_spec


# Documents of a row. Mamba computes chunks of 128 positions, gated delta nets chunks of 64: some
# documents end in the middle of a chunk, one is longer than a chunk, and the row has a tail.
DOCUMENTS = {64: (20, 3, 9, 21), 288: (150, 3, 60, 44)}
WIDTH = 8
MODELS: dict[str, dict[str, Any]] = {
    "mamba": {"pattern": "M*-"},
    "mamba, local": {"pattern": "M*-", "transformer_impl": "local"},
    "delta net": {"pattern": "G*-"},
    "delta net, local": {"pattern": "G*-", "transformer_impl": "local"},
    # As Megatron-Bridge builds Qwen3-Next and Qwen 3.5: a GPTModel.
    "qwen": {
        "num_layers": 2,
        "experimental_attention_variant": "gated_delta_net",
        "linear_attention_freq": 2,
        "attention_output_gate": True,
        "qk_layernorm": True,
        "layernorm_zero_centered_gamma": True,
        "num_moe_experts": 4,
        "moe_ffn_hidden_size": 64,
        "moe_router_load_balancing_type": "none",
        "moe_token_dispatcher_type": "allgather",
        "moe_shared_expert_intermediate_size": 64,
        "moe_shared_expert_gate": True,
    },
}


def make_model(name: str, **layout: Any) -> torch.nn.Module:
    """Build a model; the same weights in every process."""
    settings = MODELS[name] | layout
    pattern = settings.pop("pattern", "")
    hybrid = {"num_layers": len(pattern), "is_hybrid_model": True} if pattern else {}
    settings.setdefault("transformer_impl", "transformer_engine")
    config = TransformerConfig(
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=16,
        ffn_hidden_size=128,
        use_cpu_initialization=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        mamba_num_heads=4,
        mamba_head_dim=16,
        mamba_state_dim=16,
        mamba_num_groups=1,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        calculate_per_token_loss=True,
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        **hybrid,
        **settings,
    )
    torch.default_generator.manual_seed(0)
    common = {
        "vocab_size": VOCABULARY,
        "max_sequence_length": max(DOCUMENTS),
        "position_embedding_type": "rope",
        "share_embeddings_and_output_weights": False,
        "pg_collection": ProcessGroupCollection.use_mpu_process_groups(),
    }
    if not pattern:
        return GPTModel(config, block_spec(config), **common)
    return HybridModel(config, packed_hybrid_spec(config), **{PATTERN: pattern}, **common)


def row_of(positions: int, alignment: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens, labels = torch.randint(0, VOCABULARY, (2, positions), generator=generator)
    return sample_of(tokens, labels, DOCUMENTS[positions], WIDTH, alignment)


def take_seq_idx_away(model: torch.nn.Module) -> None:
    """Plant a fault: Mamba layers get everything but ``seq_idx``."""

    def without(_: Any, positional: Any, named: dict[str, Any]) -> Any:
        packed = replace(named["packed_seq_params"], seq_idx=None)
        return positional, named | {"packed_seq_params": packed}

    for part in model.modules():
        if isinstance(part, MambaMixer):
            part.register_forward_pre_hook(without, with_kwargs=True)


def compare_alone(name: str, positions: str, *, has_seq_idx: bool = True) -> dict[str, Any]:
    start()
    model = make_model(name)
    if not has_seq_idx:
        take_seq_idx_away(model)
    row = row_of(int(positions))
    packed = losses(model, batch_of(row))
    in_row = gradients(model)
    worst = 0.0
    starts = row["cu_seqlens"].tolist()
    for first, length in zip(starts, DOCUMENTS[int(positions)], strict=False):
        part = slice(first, first + length)
        document = sample_of(row["tokens"][part], row["labels"][part], (length,), 3, 1)
        found = losses(model, batch_of(document))
        worst = max(worst, float((found - packed[part]).abs().max()))
    return {"loss": worst, "gradient": relative(gradients(model), in_row)}


def save_row(name: str, positions: str, path: str) -> dict[str, Any]:
    start()
    model = make_model(name)
    batch = batch_of(row_of(int(positions), 4))
    torch.save((losses(model, batch), gradients(model)), path)
    return {"saved": path}


def compare_shared(name: str, positions: str, path: str) -> dict[str, Any]:
    size = int(os.environ["WORLD_SIZE"])
    start(size)
    model = make_model(name, context_parallel_size=size, cp_comm_type="p2p")
    expected, expected_gradients = torch.load(path)
    row = row_of(int(positions), 4)
    batch = batch_of(row)
    held = partition_indices(row["cu_seqlens"], size, parallel_state.get_context_parallel_rank())
    difference = ((losses(model, batch) - expected[held]) * batch.loss_mask[0]).abs().max()
    torch.distributed.all_reduce(difference, torch.distributed.ReduceOp.MAX)
    summed = gradients(model)
    for gradient in summed.values():
        torch.distributed.all_reduce(gradient)
    return {"loss": float(difference), "gradient": relative(summed, expected_gradients)}


CHECKS = {
    "alone": compare_alone,
    "leak": partial(compare_alone, has_seq_idx=False),
    "row": save_row,
    "shared": compare_shared,
}


def main() -> None:
    """Run the check of ``sys.argv``."""
    sys.stdout.write(json.dumps(CHECKS[sys.argv[1]](*sys.argv[2:])) + "\n")


if __name__ == "__main__":
    main()
