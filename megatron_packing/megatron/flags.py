# SPDX-License-Identifier: Apache-2.0
"""Megatron's flags that a packed run cannot honor, each with the reason.

Only what is refused whenever it is set stands here; refusals that depend on other flags are in
``checks``. What every other flag of Megatron means for a packed run stands in
tests/megatron/flag_table.py, and a test compares both with Megatron's own parser.
"""

from __future__ import annotations

_HYBRID = "a packed run builds a GPT model of attention layers, not a hybrid one"
_RETRO = "a packed run builds no retrieval model"
_DISTILLATION = "a packed run trains on the labels of its rows alone"

REFUSED = {
    # Data.
    "sft": "it makes Megatron log means of micro-batch means, and packed data need none of it",
    "mock_data": "it makes rows, not documents",
    "fim_data": "packed documents are not rearranged to fill in the middle",
    "reset_position_ids": "--packing-position-ids says what they do",
    "reset_attention_mask": "--packing-attention says what documents see",
    "eod_mask_loss": "the corpus says which tokens are trained",
    "dataloader_fast_cache_load": "pack indexes are memory-mapped and load at once",
    "hybrid_context_parallel": "packs have one length, so ranks share all rows alike",
    "yaml_cfg": "flags of packing are not read from it; give flags on the command line",
    # The model.
    "hybrid_layer_pattern": _HYBRID,
    "hybrid_override_pattern": _HYBRID,
    "hybrid_attention_ratio": _HYBRID,
    "hybrid_mlp_ratio": _HYBRID,
    "is_hybrid_model": _HYBRID,
    "mtp_hybrid_override_pattern": _HYBRID,
    "mtp_num_layers": "Megatron divides its loss by each micro-batch's own count, so it would "
    "depend on the packs",
    "use_legacy_models": "its models take no cu_seqlens",
    "retro_project_dir": _RETRO,
    "retro_add_retriever": _RETRO,
    "vision_pretraining": "packed rows hold tokens alone",
    "openai_gelu": "Megatron's models ignore it",
    "apply_residual_connection_post_layernorm": "Megatron's models ignore it",
    "moe_expert_capacity_factor": "padding would take the capacity of experts",
    "moe_expert_rank_capacity_factor": "padding would take the capacity of experts",
    # The loss and the step.
    "perform_rl_step": "packed documents are trained as they are, not answered anew",
    "logits_load_dir": _DISTILLATION,
    "logits_save_dir": "it replaces the loss by zero",
    "modelopt_enabled": _DISTILLATION,
    "export_kd_teacher_load": _DISTILLATION,
    "overlap_moe_expert_parallel_comm": "its schedule takes no cu_seqlens",
    "record_memory_history": "Megatron's own script alone starts the recording; call "
    "torch.cuda.memory._record_memory_history() and _dump_snapshot() in yours",
    "check_for_spiky_loss": "the loss of a row has no usual size",
    "use_torch_fsdp2": "Megatron does not divide its gradients by the tokens of the batch",
    "ddp_average_in_collective": "gradients are divided by the tokens of the batch, not by ranks",
}
"""The reasons, by the argument's name (``args.NAME``); a name may be of some versions only."""


def flag_of(name: str) -> str:
    """The flag of an argument's name."""
    return f"--{name.replace('_', '-')}"
