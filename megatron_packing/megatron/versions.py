# SPDX-License-Identifier: Apache-2.0
"""Supported megatron-core releases, and every difference between them that this package handles.

The oldest supported release is 0.16.1. Each difference below says which release made it and when
its code can be deleted. Look for "Drop when" after you raise the oldest supported release.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields
from types import ModuleType
from typing import Any

import megatron.core
from megatron.core.models.common.embeddings.rope_utils import apply_rotary_pos_emb
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.utils import log_single_rank

from megatron_packing.errors import InputError

TESTED = ("0.16.1", "0.17.1", "0.18.2", "0.19.2")
"""The tested releases. The dataset, batches, loss and attention are tested with all of them,
``pretrain()`` with the last one."""
_OLDEST = (0, 16, 1)
_WITH_TRAINER = (0, 19)

logger = logging.getLogger(__name__)


def core_version() -> tuple[int, int]:
    """Return the major and minor version of megatron-core.

    Raises:
        InputError: The version does not begin with two numbers.
    """
    return _numbers()[:2]


def require_trainer() -> None:
    """Exit with a one-sentence error if Megatron's ``pretrain()`` is missing or older than 0.19.

    From 0.19 on, ``pretrain()`` takes the model's configuration. A script that passes it calls this
    function before it imports ``megatron.training``.
    """
    try:
        problem = _trainer_problem()
    except InputError as error:
        problem = str(error)
    if problem:
        sys.exit(f"error: {problem}")


def require_model_builders() -> None:
    """Refuse a megatron-core without the trainer whose flags make models.

    Raises:
        InputError: Megatron's trainer is missing, or older than 0.19.
    """
    found = f"check-model reads flags as Megatron's trainer does, but {_found()}"
    if importlib.util.find_spec("megatron.training") is None:
        raise InputError(
            f"{found} without megatron.training: install the wheel of megatron-core {TESTED[-1]}, "
            f"or put a checkout of Megatron-LM on PYTHONPATH"
        )
    if core_version() < _WITH_TRAINER:
        raise InputError(f"{found}, which builds models otherwise: use {TESTED[-1]}")


def describe_untested_trainer() -> str | None:
    """Return a one-line warning if ``pretrain()`` is of an untested release, otherwise None.

    Such a release is not refused, because many sites build their own Megatron.
    """
    if core_version() == tuple(map(int, TESTED[-1].split(".")[:2])):
        return None
    return (
        f"> warning: megatron-core is {megatron.core.__version__}, but packed training was tested "
        f"with {TESTED[-1]}: this version may ignore some flags on packed rows, so compare the "
        f"first losses with those of an unpacked run"
    )


@functools.cache
def warn_if_older_than_tested() -> None:
    """Log one warning, on the first rank, if megatron-core is older than all tested releases.

    Installing this package does not constrain the version of megatron-core.
    """
    if _numbers() < _OLDEST:
        log_single_rank(
            logger,
            logging.WARNING,
            f"megatron-core is {megatron.core.__version__}, but packed rows were tested with "
            f"{TESTED[0]} and later: use one of {', '.join(TESTED)}, or compare the first losses "
            f"with those of an unpacked run",
        )


def _found() -> str:
    return f"megatron-core {megatron.core.__version__} is installed"


def _trainer_problem() -> str | None:
    found = _found()
    if core_version() < _WITH_TRAINER:
        return (
            f"{found}, but this script calls pretrain() as megatron-core 0.19 defines it: install "
            f"megatron-core {TESTED[-1]}; with {', '.join(TESTED[:-1])} you can use the dataset, "
            f"batches, loss and attention of megatron_packing in your own training loop"
        )
    if importlib.util.find_spec("megatron.training") is None:
        return (
            f"{found} without megatron.training, Megatron's trainer: install the wheel of "
            f"megatron-core {TESTED[-1]}, or put a checkout of Megatron-LM on PYTHONPATH"
        )
    return None


def _numbers() -> tuple[int, int, int]:
    text = str(getattr(megatron.core, "__version__", ""))
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if numbers is None:
        raise InputError(
            f"the version of megatron-core is {text!r}, which does not begin with two numbers, so "
            f"its behavior on packed rows is unknown; install a release, such as {TESTED[-1]}"
        )
    return int(numbers[1]), int(numbers[2]), int(numbers[3] or 0)


# Differences between the supported releases.

FLAGS_BY_RELEASE = {
    # The first wheel with a trainer is 0.17. A checkout of Megatron-LM 0.16 may lack these.
    "cuda_graph_impl": "0.17",
    "experimental_attention_variant": "0.17",
    "fine_grained_activation_offloading": "0.17",
    "fp4": "0.17",
    "fp8": "0.17",
    "full_validation": "0.17",
    "heterogeneous_layers_config_encoded_json": "0.17",
    "heterogeneous_layers_config_path": "0.17",
    "hybrid_layer_pattern": "0.17",
    "hybrid_override_pattern": "0.17",
    "moe_router_enable_expert_bias": "0.17",
    "multiple_validation_sets": "0.17",
    "non_persistent_ckpt_type": "0.17",
    "object_storage_cache_path": "0.17",
    "padded_vocab_size": "0.17",
    "phase_transition_iterations": "0.17",
    "rope_scaling_factor": "0.17",
    "spec": "0.17",
    "tokenizer_model": "0.17",
    "vocab_size": "0.17",
    "yaml_cfg": "0.17",
    # Added in 0.18.
    "eval_global_batch_size": "0.18",
    "eval_micro_batch_size": "0.18",
    "step_batch_size_schedule": "0.18",
    # Added in 0.19.
    "dataloader_inter_document_masking": "0.19",
}
"""Trainer flags that some supported releases lack, with the first release that surely has each.

Drop an entry, and read ``args.NAME`` directly, when that release is the oldest supported."""


def flag_value(args: Namespace, name: str) -> Any:
    """Return the value of a flag of ``FLAGS_BY_RELEASE``, or None if this release lacks it."""
    if name not in FLAGS_BY_RELEASE:
        raise KeyError(f"{name} is not in FLAGS_BY_RELEASE: add it with its first release")
    return getattr(args, name, None)


def pad_between_seqs_settings() -> dict[str, bool]:
    """Return the ``PackedSeqParams`` argument that says that ``cu_seqlens`` includes padding.

    Added in 0.19. Without it Transformer Engine compares two tensors on the host, in some versions
    once per layer. Drop when 0.19 is the oldest supported.
    """
    names = {field.name for field in fields(PackedSeqParams)}
    return {"pad_between_seqs": False} if "pad_between_seqs" in names else {}


def fused_rotation_interleaves() -> bool:
    """Whether fused rotary embeddings of packed rows can be interleaved.

    Until 0.17 ``apply_rotary_pos_emb`` does not pass ``rotary_interleaved`` to the fused kernel
    (``models/common/embeddings/rope_utils.py``). Drop when 0.17 is the oldest supported.
    """
    return core_version() >= (0, 17)


def fused_rotation_falls_back_to_scale() -> bool:
    """Whether Megatron uses its unfused kernel for packed rows where YaRN scales the angles.

    Until 0.19 ``apply_rotary_pos_emb`` takes the fused kernel, which drops the factor
    (``models/common/embeddings/rope_utils.py``). The commit that mended it in 0.20, on 2026-08-17,
    also added the argument ``max_seqlen``. Drop when 0.20 is the oldest supported.
    """
    return "max_seqlen" in inspect.signature(apply_rotary_pos_emb).parameters


def balancing_losses_are_multiplied_by_ranks() -> bool:
    """Whether a router multiplies its token count by the ranks that share a row.

    Changed in 0.19 (``attach_and_log_load_balancing_loss`` in ``transformer/moe/router.py``). Drop
    when 0.19 is the oldest supported.
    """
    return core_version() >= (0, 19)


def expert_bias_takes_padding_mask() -> bool:
    """Whether routers with an expert bias can exclude padding.

    Until 0.19 the shapes of two masks do not match (``_apply_expert_bias`` in
    ``transformer/moe/router.py``). Drop when 0.20 is the oldest supported.
    """
    return core_version() >= (0, 20)


def gated_delta_net_separates_documents() -> bool:
    """Whether Megatron's trainer resets gated delta net layers at document boundaries.

    Changed in 0.19. Drop when 0.19 is the oldest supported.
    """
    return core_version() >= (0, 19)


def gated_delta_net_takes_packed_rows() -> bool:
    """Whether gated delta net layers run on packed rows at all.

    Changed in 0.17. Drop when 0.17 is the oldest supported.
    """
    return core_version() >= (0, 17)


def mamba_layers_compute_seq_idx() -> bool:
    """Whether Mamba layers derive ``seq_idx`` from ``cu_seqlens`` themselves.

    From 0.17 on the caller must pass ``seq_idx``. Drop when 0.17 is the oldest supported.
    """
    return core_version() < (0, 17)


def require_multi_token_prediction() -> None:
    """Refuse releases whose multi-token prediction packed rows do not support.

    Until 0.19 its functions and settings are others, and partly missing. Drop when 0.19 is the
    oldest supported.

    Raises:
        InputError: This megatron-core is older.
    """
    if core_version() < (0, 19):
        raise InputError(
            f"the model has layers of multi-token prediction (mtp_num_layers), which packed rows "
            f"support from megatron-core 0.19 on, and this is {megatron.core.__version__}: set "
            f"mtp_num_layers to None, or use a newer release"
        )


def multi_token_acceptance_counts() -> Callable[..., tuple[Any, Any]] | None:
    """Return the function that counts predictions that are right, and all; None without it.

    Added in 0.19 (``transformer/multi_token_prediction.py``). Drop when 0.19 is the oldest
    supported.
    """
    from megatron.core.transformer import multi_token_prediction  # here, as it imports much

    name = "_compute_mtp_acceptance_counts"
    count: Callable[..., tuple[Any, Any]] | None = getattr(multi_token_prediction, name, None)
    return count


def mixes_hidden_states(config: Any) -> bool:
    """Whether layers of multi-token prediction mix hidden states of several depths.

    Added in 0.20 (``mtp_hsm`` in ``transformer_config.py``). Drop when 0.20 is the oldest
    supported.
    """
    return bool(getattr(config, "mtp_hsm", False))


def packing_scheduler_class() -> type:
    """Return Megatron's scheduler of the samples of a step.

    No release up to 0.19.2 has it; the main branch of 2026-08-22 (0.20) has. Drop when 0.20 is the
    oldest supported.

    Raises:
        InputError: This megatron-core does not have it.
    """
    from megatron.core.datasets import data_schedule  # only here: most runs do without

    found: type | None = getattr(data_schedule, "DpBalancedScheduler", None)
    if found is None:
        raise InputError(
            f"megatron-core {megatron.core.__version__} does not schedule the samples of a step: "
            f"use one whose megatron/core/datasets/data_schedule.py has scheduler_map, or call "
            f"plan_step in your own loop"
        )
    return found


def loaded_iteration(checkpointing: ModuleType) -> int | None:
    """Return the iteration of the loaded checkpoint, if the trainer keeps it.

    ``megatron.training.checkpointing`` has ``get_loaded_iteration`` from 0.17 on. Drop when 0.17 is
    the oldest supported.
    """
    get_loaded_iteration = getattr(checkpointing, "get_loaded_iteration", None)
    iteration: int | None = None if get_loaded_iteration is None else get_loaded_iteration()
    return iteration


def seqlen_stats_update(training: ModuleType) -> Callable[[Any], None] | None:
    """Return the trainer's function that takes ``cu_seqlens`` for its FLOP counter, or None.

    ``megatron.training.training`` has it from 0.18 on. Drop when 0.18 is the oldest supported.
    """
    update: Callable[[Any], None] | None = getattr(
        training, "update_seqlen_stats_from_cu_seqlens", None
    )
    return update


def forget_seqlen_stats(training: ModuleType) -> None:
    """Empty the sums that ``seqlen_stats_update`` adds to, so that a step counts its own rows.

    ``megatron.training.training`` has them from 0.18 on. Drop when 0.18 is the oldest supported.
    """
    stats = getattr(training, "_seqlen_stats_in_iteration", None)
    if stats is not None:
        stats.zero_()
        vars(training)["_seqlen_stats_active"] = False
