# SPDX-License-Identifier: Apache-2.0
"""Builds the model of one of Bridge's providers small, and checks it."""

from __future__ import annotations

from functools import partial
from typing import Any

import megatron_packing.needs.megatron_core
import megatron_packing.needs.torch  # noqa: F401

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnBackend

from megatron_packing.bridge.checks import check_model
from megatron_packing.bridge.model_kinds import check_inputs, check_recurrent_layers
from megatron_packing.errors import InputError
from megatron_packing.isolation.result import ModelCheck
from megatron_packing.megatron.any_attention import AnyAttention
from megatron_packing.megatron.gpu_layers import ON_CPU, check_gpu_layers
from megatron_packing.megatron.hybrid_layer_spec import local_hybrid_spec
from megatron_packing.megatron.layer_pattern import layer_pattern
from megatron_packing.megatron.small_flags import default_arguments
from megatron_packing.megatron.small_model import (
    check_built,
    local_layers,
    on_device,
    one_process,
    plain_errors,
)
from megatron_packing.megatron.small_rows import POSITIONS
from megatron_packing.megatron.small_sizes import VOCABULARY, small_sizes

_IN_ONE_PROCESS: dict[str, Any] = {
    **dict.fromkeys(("tensor_model_parallel_size", "pipeline_model_parallel_size"), 1),
    **dict.fromkeys(("context_parallel_size", "expert_model_parallel_size"), 1),
    **dict.fromkeys(("expert_tensor_parallel_size", "pipeline_model_parallel_layout"), None),
    **dict.fromkeys(("virtual_pipeline_model_parallel_size", "pipeline_dtype"), None),
    **dict.fromkeys(("num_layers_in_first_pipeline_stage", "cp_comm_type"), None),
    **dict.fromkeys(("num_layers_in_last_pipeline_stage", "hierarchical_context_parallel_sizes")),
    **dict.fromkeys(("account_for_embedding_in_pipeline_split", "sequence_parallel"), False),
    **dict.fromkeys(("account_for_loss_in_pipeline_split", "tp_comm_overlap"), False),
    **dict.fromkeys(("moe_shared_expert_overlap", "init_model_with_meta_device"), False),
    **dict.fromkeys(("distribute_saved_activations", "delay_wgrad_compute"), False),
    **dict.fromkeys(("fine_grained_activation_offloading", "cpu_offloading"), False),
    **dict.fromkeys(("hidden_dropout", "attention_dropout"), 0.0),
    "moe_token_dispatcher_type": "alltoall",
    "calculate_per_token_loss": True,
    "vocab_size": VOCABULARY,
    "should_pad_vocab": False,
    "seq_length": POSITIONS,
}
_ON_CPU = ON_CPU | {
    "params_dtype": torch.float32,
    "attention_backend": AttnBackend.auto,
    **dict.fromkeys(("bias_activation_fusion", "persist_layer_norm", "enable_autocast"), False),
    "use_transformer_engine_op_fuser": False,
}

_MEGATRONS = {
    *("default_layer_spec", "transformer_engine_layer_spec", "local_layer_spec"),
    *("get_gpt_decoder_block_spec", "transformer_engine_full_layer_spec"),
}
"""Functions that give Megatron's own layers, of Transformer Engine or local ones."""


def check_provider(provider: Any, name: str, *, on_cpu: bool) -> ModelCheck:
    """Check the model of a provider.

    Args:
        provider: Bridge's model provider; it is changed.
        name: What the user called it.
        on_cpu: Whether stand-ins of CUDA are in place.

    Raises:
        InputError: The model is refused with packs, or cannot be built or run here.
    """
    check_inputs(provider)
    check_recurrent_layers(provider)
    check_model(provider)
    if on_cpu:
        check_gpu_layers(provider)
        _check_layers(provider, name)
    settings = small_sizes(provider) | _IN_ONE_PROCESS | (_ON_CPU if on_cpu else {})
    for setting, value in settings.items():
        if hasattr(provider, setting):
            setattr(provider, setting, value)
    with one_process(on_cpu=on_cpu):
        with plain_errors("be built"):
            model = _build(provider, on_cpu=on_cpu)
        args = default_arguments()
        args.num_experts = provider.num_moe_experts
        args.seq_length, args.micro_batch_size = POSITIONS, 1
        args.fp8, args.fp4 = provider.fp8, provider.fp4
        args.fp8_recipe = provider.fp8_recipe
        return check_built(model, args, on_cpu=on_cpu, has_own_layers=False, left_out=[])


def _check_layers(provider: Any, name: str) -> None:
    """Refuse layers of a class of Bridge's own, which need Transformer Engine."""
    spec = getattr(provider, "transformer_layer_spec", None)
    function = spec.func if isinstance(spec, partial) else spec
    if spec is None or getattr(function, "__name__", "") in _MEGATRONS:
        return
    found = getattr(function, "__name__", type(function).__name__)
    raise InputError(
        f"--bridge-recipe {name} has layers of its own ({found}), which Transformer Engine "
        f"computes on a GPU: run check-model where there is one"
    )


def _build(provider: Any, *, on_cpu: bool) -> Any:
    is_hybrid = layer_pattern(provider) is not None
    if on_cpu and not is_hybrid:
        provider.transformer_layer_spec = local_layers
    provider.finalize()
    if on_cpu and is_hybrid:
        provider.hybrid_stack_spec = local_hybrid_spec(provider, AnyAttention)
    provider._pg_collection = ProcessGroupCollection.use_mpu_process_groups()
    return on_device(provider.provide(pre_process=True, post_process=True))
