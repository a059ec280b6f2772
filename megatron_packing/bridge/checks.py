# SPDX-License-Identifier: Apache-2.0
"""Recipes of Megatron-Bridge that cannot be trained on packs, or that it would train wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_packing.bridge.model_kinds import (
    check_hybrid_flag,
    check_inputs,
    check_recurrent_layers,
)
from megatron_packing.bridge.splits import Split
from megatron_packing.bridge.versions import bridge_version, check_tested
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.thd.alignment import row_multiple, segment_alignment
from megatron_packing.thd.layout import ATTENTION

_FIRST_WITH_MIDDLE_STAGES = (0, 5)
_TWO_STAGES = 2


def check_recipe(cfg: Any, *, allow_untested_bridge: bool = False) -> None:
    """Refuse a recipe whose model or parallelism cannot be trained on packs.

    Args:
        cfg: Bridge's ``ConfigContainer``.
        allow_untested_bridge: Train with a Bridge that is newer than the tested ones.

    Raises:
        InputError: Names the setting.
    """
    check_tested(allow_untested_bridge=allow_untested_bridge)
    check_inputs(cfg.model)
    check_recurrent_layers(cfg.model)
    check_stages(cfg.model)
    check_model(cfg.model)
    check_virtual_stages(cfg)


def check_run(cfg: Any, splits: Mapping[str, Split]) -> None:
    """Refuse a run that would train wrongly on the packs of ``cfg.dataset``.

    Settings may be changed after ``use_packed_data``, or read from a file, so this looks at what
    they are when training starts.

    Args:
        cfg: Bridge's ``ConfigContainer``, whose ``dataset`` is a ``PackedData``.
        splits: Those that it has.

    Raises:
        InputError: Names the setting, or says how to make an index that can be trained.
    """
    check_recipe(cfg, allow_untested_bridge=cfg.dataset.allow_untested_bridge)
    check_hybrid_flag(cfg.model)
    check_settings(cfg)
    for split in splits.values():
        for index in split.indexes:
            check_index(index, cfg.dataset.seq_length, cfg)


def check_stages(model: Any) -> None:
    """Refuse the releases whose middle pipeline stages see no boundaries (Megatron-Bridge#2952).

    Raises:
        InputError: The model has such stages, and the installed release is one of those.
    """
    version, stages = bridge_version(), model.pipeline_model_parallel_size
    if stages > 2 and version < _FIRST_WITH_MIDDLE_STAGES:
        raise InputError(
            f"cfg.model.pipeline_model_parallel_size is {stages}, but Megatron-Bridge "
            f"{version[0]}.{version[1]} gives cu_seqlens to the first and last pipeline stage "
            f"alone, so in the others documents see each other; use 2 stages at most, or "
            f"Megatron-Bridge 0.5 or later"
        )


# What trains wrongly on packed rows: fields of the model, of some releases.
_REFUSED = {
    "mtp_num_layers": "multi-token prediction divides its loss by each micro-batch's own count",
    "enable_cuda_graph": "captured graphs keep the boundaries of one row",
    "external_cuda_graph": "captured graphs keep the boundaries of one row",
    "moe_expert_capacity_factor": "padding would take the capacity of experts",
    "overlap_moe_expert_parallel_comm": "nothing proves that its schedule keeps documents apart",
    "hybrid_context_parallel": "packs have one length, so ranks share all rows alike",
}


def check_model(model: Any) -> None:
    """Refuse what would train wrongly on packed rows.

    Raises:
        InputError: Names the setting.
    """
    for name, why in _REFUSED.items():
        if getattr(model, name, None):
            raise InputError(
                f"cfg.model.{name} is {getattr(model, name)}, which does not go with packing: "
                f"{why}; leave it out"
            )
    if getattr(model, "cuda_graph_impl", None) not in (None, "none"):
        raise InputError(
            f"cfg.model.cuda_graph_impl is {model.cuda_graph_impl}, but captured graphs keep the "
            f"boundaries of one row: set it to none"
        )


def check_virtual_stages(cfg: Any) -> None:
    """Refuse virtual stages on two pipeline stages without overlap of what they exchange.

    Batches of sends and receives between the same two ranks mix up their messages; three stages and
    more are right either way. Megatron's command line refuses these settings
    (``training/arguments.py``), Bridge does not.

    Args:
        cfg: Bridge's ``ConfigContainer``. Its ``comm_overlap`` decides, where it is set.

    Raises:
        InputError: Names the settings that are right.
    """
    model, comm = cfg.model, getattr(cfg, "comm_overlap", None)
    stages = model.pipeline_model_parallel_size
    if stages != _TWO_STAGES or not (model.virtual_pipeline_model_parallel_size or 1) > 1:
        return
    part = "model" if comm is None else "comm_overlap"
    wanted = {"overlap_p2p_comm": True, "batch_p2p_comm": False}
    for name, value in wanted.items():
        found = getattr(model if comm is None else comm, name, None)
        if comm is not None and found is None:  # Bridge sets both right
            continue
        if bool(found) is not value:
            raise InputError(
                f"cfg.{part}.{name} is {found}, but two pipeline stages with virtual stages may "
                f"then mix up what they send each other, which gives wrong gradients; set "
                f"cfg.{part}.overlap_p2p_comm to True and cfg.{part}.batch_p2p_comm to False"
            )


# What use_packed_data sets, and why nothing else trains rightly.
_NEEDED: tuple[tuple[str, str, tuple[Any, ...], str], ...] = (
    ("dataset", "dataloader_type", ("single",), "Bridge would shuffle rows on its own"),
    ("dataset", "attention", ATTENTION, "there is no other"),
    ("train", "micro_batch_size", (1,), "a packed row is a micro-batch of its own"),
    ("validation", "eval_micro_batch_size", (None, 1), "a packed row is a micro-batch of its own"),
    ("model", "calculate_per_token_loss", (True,), "rows would weigh the same, whatever they hold"),
    ("ddp", "average_in_collective", (False,), "the loss would be divided twice"),
)


def check_settings(cfg: Any) -> None:
    """Refuse settings that are not what ``use_packed_data`` made them.

    Args:
        cfg: Bridge's ``ConfigContainer``, whose ``dataset`` is a ``PackedData``.

    Raises:
        InputError: Names all of them.
    """
    needed = [*_NEEDED]
    row = cfg.dataset.seq_length
    needed.append(("model", "seq_length", (row,), "the row of the pack index"))
    wrong = []
    for part, name, allowed, why in needed:
        target = getattr(cfg, part, None)
        if target is None or not hasattr(target, name):
            continue  # of other releases
        value = getattr(target, name)
        if value not in allowed:
            choices = " or ".join(map(repr, allowed))
            wrong.append(f"cfg.{part}.{name} is {value!r} and must be {choices} ({why})")
    if wrong:
        raise InputError(
            f"{'; '.join(wrong)}: use_packed_data sets {'it' if len(wrong) == 1 else 'them'}, so "
            f"leave out what changes {'it' if len(wrong) == 1 else 'them'} afterwards"
        )


def check_schedule(cfg: Any, batch: int) -> None:
    """Refuse a length of training that is counted in rows, where rows change.

    Args:
        cfg: Bridge's ``ConfigContainer``, before it is changed.
        batch: Rows of a global batch afterwards.

    Raises:
        InputError: Names the setting.
    """
    for name, instead in (
        ("train_samples", "set cfg.train.train_iters, and the scheduler's settings in iterations"),
        ("rampup_batch_size", "leave it out"),
    ):
        value = getattr(cfg.train, name, None)
        if value is not None and batch != cfg.train.global_batch_size:
            raise InputError(
                f"cfg.train.{name} is {value}, in rows of which a global batch had "
                f"{cfg.train.global_batch_size} and now has {batch}; {instead}"
            )


def check_index(index: PackIndex, row: int, cfg: Any) -> None:
    """Refuse rows that the recipe's parallelism cannot cut evenly.

    Args:
        index: Of one of the splits.
        row: Positions of the training rows.
        cfg: Bridge's ``ConfigContainer``.

    Raises:
        InputError: Says how to make an index that can be.
    """
    plan, model = index.plan, cfg.model
    if plan.sequence_length != row:
        raise InputError(
            f"the pack index {index.path} has rows of {plan.sequence_length} positions and that of "
            f"the training documents rows of {row}; make both for one length"
        )
    sizes = {model.context_parallel_size}
    sizes.add(getattr(cfg.dist, "eval_context_parallel_size", None) or model.context_parallel_size)
    for ranks in sizes:
        least = segment_alignment(ranks)
        if plan.alignment % least:
            raise InputError(
                f"the pack index {index.path} has segments aligned to {plan.alignment}, but "
                f"context parallelism over {ranks} ranks cuts them into {least} equal chunks; make "
                f"one with megatron-packing pack --alignment {least}"
            )
        precision = _precision(cfg)
        multiple = row_multiple(
            context_parallel_size=ranks,
            tensor_model_parallel_size=model.tensor_model_parallel_size,
            sequence_parallel=model.sequence_parallel,
            fp8_recipe=precision.fp8_recipe if precision.fp8 else None,
            fp4=bool(getattr(precision, "fp4", None)),
        )
        if row % multiple:
            raise InputError(
                f"the pack index {index.path} has rows of {row} positions, which the recipe's "
                f"context, tensor and sequence parallelism and FP8 cannot cut into equal parts; "
                f"make one with a --sequence-length that is a multiple of {multiple}"
            )


def _precision(cfg: Any) -> Any:
    """Where FP8 is set: in ``cfg.mixed_precision``, by name or as settings, else in the model."""
    if cfg.mixed_precision is None or getattr(cfg.model, "fp8", None):
        return cfg.model
    from megatron.bridge.training.mixed_precision import get_mixed_precision_config

    return get_mixed_precision_config(cfg.mixed_precision)
