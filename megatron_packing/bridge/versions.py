# SPDX-License-Identifier: Apache-2.0
"""Supported Megatron-Bridge releases, and every difference between them that we handle.

The oldest supported release is 0.3. Each difference below says which release made it and when its
code can be deleted. Look for "Drop when" here and in ``moved_names`` after you raise the oldest
supported release.
"""

from __future__ import annotations

import re
from typing import Any

from megatron_packing.errors import InputError

NEWEST_TESTED = (0, 7)
"""The newest release that the tests train with: a 0.7.0 snapshot of 2026-08-22."""


def check_tested(*, allow_untested_bridge: bool) -> None:
    """Refuse a Megatron-Bridge that is newer than the newest tested release.

    A new release may read packed rows differently, and wrong training can look right.

    Args:
        allow_untested_bridge: Skip this check.

    Raises:
        InputError: Megatron-Bridge is newer.
    """
    version = bridge_version()
    if version > NEWEST_TESTED and not allow_untested_bridge:
        raise InputError(
            f"Megatron-Bridge {version[0]}.{version[1]} is newer than "
            f"{NEWEST_TESTED[0]}.{NEWEST_TESTED[1]}, the newest release that was tested with "
            f"packed data; install that release, or give use_packed_data "
            f"allow_untested_bridge=True"
        )


def bridge_version() -> tuple[int, int]:
    """Return the major and minor version of the imported Megatron-Bridge.

    Raises:
        InputError: The version does not begin with two numbers.
    """
    from megatron.bridge import package_info

    text = str(getattr(package_info, "__version__", ""))
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers is None:
        raise InputError(
            f"the version of Megatron-Bridge is {text!r}, which does not begin with two numbers, "
            f"so it is unknown whether it passes cu_seqlens to all layers; install a release"
        )
    return int(numbers[1]), int(numbers[2])


def evaluation_part(cfg: Any) -> str:
    """Return the part of ``cfg`` that holds the evaluation settings: "validation" or "train".

    ``cfg.validation`` was added in 0.4. Drop when 0.4 is the oldest supported.
    """
    return "validation" if hasattr(cfg, "validation") else "train"


def evaluation_global_batch(cfg: Any) -> int:
    """Return the rows of an evaluation's global batch.

    Every ``cfg.validation`` has ``eval_global_batch_size`` from 0.5 on. Drop when 0.5 is the oldest
    supported.
    """
    settings = getattr(cfg, evaluation_part(cfg))
    batch: int | None = getattr(settings, "eval_global_batch_size", None)
    return batch or int(cfg.train.global_batch_size)


def skips_training(cfg: Any) -> bool:
    """Whether the run only evaluates.

    ``cfg.validation`` has ``skip_train`` from 0.4 on. Drop when 0.4 is the oldest supported.
    """
    return bool(getattr(getattr(cfg, evaluation_part(cfg)), "skip_train", False))


def evaluation_context_parallel_size(cfg: Any) -> int:
    """Return the context-parallel size of evaluations.

    ``cfg.dist.eval_context_parallel_size`` was added in 0.5. Drop when 0.5 is the oldest supported.
    """
    size: int | None = getattr(cfg.dist, "eval_context_parallel_size", None)
    return size or int(cfg.model.context_parallel_size)


def num_epochs(cfg: Any) -> float | None:
    """Return the training duration in epochs, if it is set.

    ``cfg.train.num_epochs`` was added in 0.6. Drop when 0.6 is the oldest supported.
    """
    epochs: float | None = getattr(cfg.train, "num_epochs", None)
    return epochs


def packed_sequence_size(dataset: Any) -> int:
    """Return the row length of a recipe's own packing; 0 if the recipe does not pack.

    0.6 renamed ``packed_sequence_specs`` to ``offline_packing_specs``. Drop the old name when 0.6
    is the oldest supported.
    """
    specs = getattr(dataset, "offline_packing_specs", None)
    specs = specs or getattr(dataset, "packed_sequence_specs", None)
    return int(getattr(specs, "packed_sequence_size", 0))


def passes_boundaries_to_middle_stages() -> bool:
    """Whether pipeline stages between the first and the last get ``cu_seqlens``.

    Fixed in 0.5 (Megatron-Bridge#2952). Drop when 0.5 is the oldest supported.
    """
    return bridge_version() >= (0, 5)


def passes_seq_idx() -> bool:
    """Whether the step passes ``seq_idx``, the document boundaries, to Mamba layers.

    Added in 0.5 (Megatron-Bridge#3484). Drop when 0.5 is the oldest supported.
    """
    return bridge_version() >= (0, 5)


def can_check_packing() -> bool:
    """Whether the packing check runs: it needs names of megatron-core 0.17, which Bridge 0.4 has.

    Drop when 0.4 is the oldest supported.
    """
    return bridge_version() >= (0, 4)


def why_not_checked(cfg: Any) -> str:
    """Return why the packing check is left out of a run, "" if it is not.

    ``cfg.dist.use_decentralized_pg`` and the model's offloading came after 0.3. Drop the defaults
    when 0.6 is the oldest supported.
    """
    if skips_training(cfg):
        return "the run only evaluates"
    if cfg.dataset.attention == "pack":
        return 'attention="pack" lets documents mix'
    if cfg.dist.use_torch_fsdp2 or cfg.ddp.use_megatron_fsdp:
        return "it does not know how FSDP keeps parameters"
    if getattr(cfg.dist, "use_decentralized_pg", False):
        return "cfg.dist.use_decentralized_pg keeps process groups where it does not look"
    if getattr(cfg.model, "overlap_moe_expert_parallel_comm", False):
        return "cfg.model.overlap_moe_expert_parallel_comm runs two micro-batches at once"
    if getattr(cfg.model, "fine_grained_activation_offloading", False):
        return (
            "cfg.model.fine_grained_activation_offloading learns from the first passes what to "
            "offload"
        )
    return ""


def takes_padding_mask() -> bool:
    """Whether the step passes a row's padding mask to the model.

    Added in 0.7. Drop when 0.7 is the oldest supported.
    """
    return bridge_version() >= (0, 7)
