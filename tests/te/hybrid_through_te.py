# SPDX-License-Identifier: Apache-2.0
"""Trains megatron-core's HybridModel on a packed row through Transformer Engine's layers.

Run by test_hybrid.py in ranks forked from this script. Prints one JSON object.

    alike OPTION    HybridModel against the GPTModel of an option, with the same weights
    experts         the same with mixtures of experts, which exclude padding
    names           what checkpoints of Megatron's hybrid stack call its tensors, and of the local
"""

from __future__ import annotations

import copy
import json
import os
import sys
from dataclasses import replace
from typing import Any

from tests.te.wheels import RELEASES

os.environ["PACKING_TEST_TE_RELEASE"] = RELEASES[0]

from tests.te.packed_through_te import (  # installs Transformer Engine before Megatron looks for it
    ROW,
    VOCABULARY,
    batch_of,
    gradients,
    losses,
    make_model,
    relative,
    start,
    whole_row,
)

# isort: split

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.moe_logging import destroy_moe_metrics_tracker

from megatron_packing.megatron.hybrid_layer_spec import packed_hybrid_spec

torch.Tensor.record_stream = lambda *_: None  # there is no other stream

EXPERTS = {
    "num_moe_experts": 4,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 64,
    "moe_grouped_gemm": True,
    "moe_token_dispatcher_type": "alltoall",
    "moe_router_load_balancing_type": "aux_loss",
    "moe_aux_loss_coeff": 0.5,
}


def make_hybrid(gpt: GPTModel, pattern: str, implementation: str = "transformer_engine") -> Any:
    """Build a HybridModel of the configuration of a GPTModel."""
    config = copy.deepcopy(gpt.config)
    config.num_layers, config.is_hybrid_model = len(pattern), True
    config.transformer_impl = implementation
    return HybridModel(
        config,
        packed_hybrid_spec(config),
        VOCABULARY,
        ROW,
        hybrid_layer_pattern=pattern,
        position_embedding_type=gpt.position_embedding_type,
        share_embeddings_and_output_weights=False,
        pg_collection=ProcessGroupCollection.use_mpu_process_groups(),
    )


def name_in_gpt(name: str) -> str:
    """Name a parameter of a HybridModel whose layers alternate as GPTModel does."""
    *start, number, rest = name.split(".", 3) if ".layers." in name else (name, "", "")
    if not number:
        return name.replace("final_norm", "final_layernorm")
    return ".".join([*start, str(int(number) // 2), rest])


def compare(gpt: GPTModel, pattern: str) -> dict[str, Any]:
    """Return by how much losses and gradients of a row differ."""
    hybrid = make_hybrid(gpt, pattern)
    weights = dict(gpt.named_parameters())
    parameters = {name_in_gpt(name): parameter for name, parameter in hybrid.named_parameters()}
    assert parameters.keys() == weights.keys()
    for name, parameter in parameters.items():
        parameter.data.copy_(weights[name])
    batch = batch_of(whole_row())
    if gpt.config.num_moe_experts:
        batch = replace(batch, padding_mask=batch.loss_mask == 0, row_denominator=batch.denominator)
    expected = losses(gpt, batch)
    destroy_moe_metrics_tracker()  # it has a place for each layer of one model
    found = losses(hybrid, batch)
    of_hybrid = {name_in_gpt(name): gradient for name, gradient in gradients(hybrid).items()}
    difference = ((found - expected) * batch.loss_mask[0]).abs().max()
    return {"loss": float(difference), "gradient": relative(of_hybrid, gradients(gpt))}


def compare_alike(option: str) -> dict[str, Any]:
    start()
    gpt = make_model(option)
    return compare(gpt, "+-+-" if gpt.config.multi_latent_attention else "*-*-")


def compare_experts() -> dict[str, Any]:
    start()
    return compare(make_model("grouped queries", **EXPERTS), "*E*E")


def list_names() -> dict[str, Any]:
    start()
    gpt = make_model("norm of queries and keys")
    found = {}
    for implementation in ("transformer_engine", "local"):
        model = make_hybrid(gpt, "*-*-", implementation)
        names = {entry.key for entry in model.sharded_state_dict().values()}
        found[implementation] = sorted(name for name in names if "_extra_state" not in name)
    return found


CHECKS = {"alike": compare_alike, "experts": compare_experts, "names": list_names}


def main() -> None:
    """Run the check of ``sys.argv``."""
    sys.stdout.write(json.dumps(CHECKS[sys.argv[1]](*sys.argv[2:])) + "\n")
