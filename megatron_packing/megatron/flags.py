# SPDX-License-Identifier: Apache-2.0
"""The Megatron flags that a packed run always refuses, each with the reason.

``checks`` holds the refusals that depend on other flags. tests/megatron/flag_table.py says what
every other Megatron flag means for a packed run; a test compares both with Megatron's parser.
"""

from __future__ import annotations

from megatron_packing.planning.settings import flag_of as flag_of  # of any argument

_HYBRID = "--hybrid-layer-pattern says what layers a hybrid model has"
_RETRO = "packed training does not build retrieval models"
_DISTILLATION = "packed training uses only the labels of its rows"

REFUSED = {
    # Data.
    "sft": "it makes Megatron log means of micro-batch means, and packing does not need it",
    "mock_data": "it generates rows, not documents",
    "fim_data": "packing does not rearrange documents for fill-in-the-middle",
    "reset_position_ids": "use --packing-position-ids instead",
    "reset_attention_mask": "use --packing-attention instead",
    "eod_mask_loss": "the corpus's loss mask says which tokens are trained",
    "dataloader_fast_cache_load": "pack indexes are memory-mapped, so they load at once",
    "hybrid_context_parallel": "all rows have one length, so ranks share every row alike",
    "yaml_cfg": "packing flags are not read from YAML; give flags on the command line",
    # The model.
    "hybrid_attention_ratio": _HYBRID,
    "hybrid_mlp_ratio": _HYBRID,
    "is_hybrid_model": _HYBRID,
    "mtp_hybrid_override_pattern": _HYBRID,
    "mtp_hsm": "nothing shows that the hidden states it mixes stay in their document",
    "use_legacy_models": "legacy models do not take cu_seqlens",
    "retro_project_dir": _RETRO,
    "retro_add_retriever": _RETRO,
    "vision_pretraining": "packed rows hold only tokens",
    "openai_gelu": "Megatron's models ignore it",
    "apply_residual_connection_post_layernorm": "Megatron's models ignore it",
    "moe_expert_capacity_factor": "padding would use up expert capacity",
    "moe_expert_rank_capacity_factor": "padding would use up expert capacity",
    # The loss and the step.
    "rampup_batch_size": "Megatron ignores it; give --step-batch-size-schedule",
    "perform_rl_step": "packed training uses documents as they are and samples no new answers",
    "logits_load_dir": _DISTILLATION,
    "logits_save_dir": "it replaces the loss with zero",
    "modelopt_enabled": _DISTILLATION,
    "export_kd_teacher_load": _DISTILLATION,
    "overlap_moe_expert_parallel_comm": "its schedule does not pass cu_seqlens",
    "record_memory_history": "only Megatron's own script starts the recording; call "
    "torch.cuda.memory._record_memory_history() and _dump_snapshot() in yours",
    "check_for_spiky_loss": "the summed loss varies from row to row, so no spike threshold fits",
    "use_torch_fsdp2": "with it Megatron does not divide gradients by the tokens of the batch",
    "ddp_average_in_collective": "gradients are divided by the tokens of the batch, not by ranks",
}
"""Reasons by argument name (``args.NAME``). Some releases lack some of these arguments."""


PLAN_PREFIX = "packing-"
"""Comes before the flags of plan settings: ``--packing-strategy`` and so on."""
MEGATRON_SETS = {"sequence_length": "--seq-length", "seed": "--seed"}
"""The plan settings for which Megatron has a flag of its own."""


def flag_of_setting(field: str) -> str:
    """The flag of a training script that sets a field of ``PlanSettings``."""
    return MEGATRON_SETS.get(field) or flag_of(field, PLAN_PREFIX)
