# SPDX-License-Identifier: Apache-2.0
"""Refuses Bridge recipes that cannot be trained on packs or would train wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_packing.bridge.model_kinds import (
    check_hybrid_settings,
    check_inputs,
    check_recurrent_layers,
)
from megatron_packing.bridge.splits import Split, shape_of
from megatron_packing.bridge.versions import (
    bridge_version,
    check_tested,
    evaluation_context_parallel_size,
    passes_boundaries_to_middle_stages,
)
from megatron_packing.errors import InputError
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.megatron.attention_choice import (
    check_attention as check_attention_kernels,
)
from megatron_packing.megatron.attention_limits import attention_problems, width_problem
from megatron_packing.megatron.layer_pattern import layer_pattern
from megatron_packing.thd.alignment import row_multiple, segment_alignment
from megatron_packing.thd.layout import ATTENTION
from megatron_packing.thd.row_shape import RowShape

_TWO_STAGES = 2


def check_recipe(cfg: Any, *, allow_untested_bridge: bool = False) -> None:
    """Refuse a recipe whose model or parallelism cannot be trained on packs.

    Args:
        cfg: Bridge's ``ConfigContainer``.
        allow_untested_bridge: Accept a Bridge that is newer than the newest tested release.

    Raises:
        InputError: Names the setting.
    """
    check_tested(allow_untested_bridge=allow_untested_bridge)
    check_inputs(cfg.model)
    check_recurrent_layers(cfg.model)
    check_stages(cfg.model)
    check_model(cfg.model)
    check_attention(cfg)
    check_virtual_stages(cfg)


def check_run(cfg: Any, splits: Mapping[str, Split]) -> None:
    """Refuse a run that would train wrongly on the packs of ``cfg.dataset``.

    Settings may change after ``use_packed_data``, or come from a file, so this checks their values
    when training starts.

    Args:
        cfg: Bridge's ``ConfigContainer``, whose ``dataset`` is a ``PackedData``.
        splits: The splits of the run, by name.

    Raises:
        InputError: Names the setting, or says how to make an index that fits.
    """
    check_recipe(cfg, allow_untested_bridge=cfg.dataset.allow_untested_bridge)
    check_hybrid_settings(cfg.model)
    check_settings(cfg)
    for split in splits.values():
        for index in split.indexes:
            check_index(index, cfg.dataset.seq_length, cfg)
    check_width(shape_of(splits, cfg.dataset.attention), cfg)


def check_stages(model: Any) -> None:
    """Refuse releases whose middle pipeline stages get no ``cu_seqlens`` (Megatron-Bridge#2952).

    Raises:
        InputError: The model has middle stages, and the installed release has this bug.
    """
    stages = model.pipeline_model_parallel_size
    if stages > _TWO_STAGES and not passes_boundaries_to_middle_stages():
        version = bridge_version()
        raise InputError(
            f"cfg.model.pipeline_model_parallel_size is {stages}, but Megatron-Bridge "
            f"{version[0]}.{version[1]} passes cu_seqlens only to the first and last pipeline "
            f"stage, so documents attend to each other in the others; use at most 2 stages, or "
            f"Megatron-Bridge 0.5 or later"
        )


_MULTI_TOKEN = (
    "Megatron-Bridge does not give its layers the loss mask, so multi-token prediction would also "
    "train on prompts"
)
# Model settings that train wrongly on packed rows. Some releases lack some of them.
_REFUSED = {
    "mtp_num_layers": _MULTI_TOKEN,
    "mtp_hybrid_override_pattern": _MULTI_TOKEN,
    "enable_cuda_graph": "a captured graph reuses the document boundaries of one row",
    "external_cuda_graph": "a captured graph reuses the document boundaries of one row",
    "moe_expert_capacity_factor": "padding would use up expert capacity",
    "overlap_moe_expert_parallel_comm": "its schedule is not proven to separate documents",
    "hybrid_context_parallel": "all rows have one length, so ranks share every row alike",
}


def check_model(model: Any) -> None:
    """Refuse model settings that would train wrongly on packed rows.

    Raises:
        InputError: Names the setting.
    """
    for name, why in _REFUSED.items():
        if getattr(model, name, None):
            off = False if getattr(model, name) is True else None
            raise InputError(
                f"cfg.model.{name} is {getattr(model, name)}, which is not supported with packing: "
                f"{why}; set it to {off}"
            )
    pattern = layer_pattern(model) or ""
    main, separator, _ = pattern.partition("/")
    if separator:
        raise InputError(
            f"cfg.model's layer pattern is {pattern}, whose layers after / are not "
            f"supported with packing: {_MULTI_TOKEN}; set the pattern to {main}"
        )
    if getattr(model, "cuda_graph_impl", None) not in (None, "none"):
        raise InputError(
            f"cfg.model.cuda_graph_impl is {model.cuda_graph_impl}, but a captured graph reuses "
            f"the document boundaries of one row; set it to none"
        )


def check_attention(cfg: Any) -> None:
    """Refuse attention that Transformer Engine cannot compute on packed rows, or trains wrongly.

    Args:
        cfg: Bridge's ``ConfigContainer``.

    Raises:
        InputError: Names the setting.
    """
    if getattr(cfg.model, "transformer_impl", "transformer_engine") != "transformer_engine":
        return
    precision = _precision(cfg)
    part = "model" if precision is cfg.model else "mixed_precision"
    for problem in attention_problems(
        cfg.model,
        lambda name: f"cfg.{part if name.startswith('fp8') else 'model'}.{name}",
        precision=precision,
    ):
        raise InputError(problem)


def check_kernels(cfg: Any, splits: Mapping[str, Split]) -> list[str]:
    """Refuse a run whose attention Transformer Engine has no fused kernel for.

    Call it once each rank has set its CUDA device.

    Args:
        cfg: Bridge's ``ConfigContainer``, whose ``dataset`` is a ``PackedData``.
        splits: The splits of the run, by name.

    Returns:
        Lines for the log: what computes attention.

    Raises:
        InputError: There is no fused kernel, with Transformer Engine's reasons.
    """
    return check_attention_kernels(
        cfg.model,
        lambda name: f"cfg.model.{name}",
        positions=cfg.dataset.seq_length,
        shape=shape_of(splits, cfg.dataset.attention),
        allow_unfused=(
            "use_packed_data(..., allow_unfused_attention=True)",
            cfg.dataset.allow_unfused_attention,
        ),
    )


def check_virtual_stages(cfg: Any) -> None:
    """Refuse virtual stages on two pipeline stages without overlapped communication.

    Batched sends and receives between the same two ranks can swap their messages. Three or more
    stages are correct either way. Megatron's command line refuses these settings
    (``training/arguments.py``), Bridge does not.

    Args:
        cfg: Bridge's ``ConfigContainer``. If ``comm_overlap`` is set, its values count.

    Raises:
        InputError: Names the correct settings.
    """
    model, comm = cfg.model, getattr(cfg, "comm_overlap", None)
    stages = model.pipeline_model_parallel_size
    if stages != _TWO_STAGES or not (model.virtual_pipeline_model_parallel_size or 1) > 1:
        return
    part = "model" if comm is None else "comm_overlap"
    wanted = {"overlap_p2p_comm": True, "batch_p2p_comm": False}
    for name, value in wanted.items():
        found = getattr(model if comm is None else comm, name, None)
        if comm is not None and found is None:  # Bridge sets both correctly
            continue
        if bool(found) is not value:
            raise InputError(
                f"cfg.{part}.{name} is {found}, but two pipeline stages with virtual stages can "
                f"then swap the tensors they exchange, which gives wrong gradients; set "
                f"cfg.{part}.overlap_p2p_comm to True and cfg.{part}.batch_p2p_comm to False"
            )


# The settings that use_packed_data makes, with the values that train correctly and the reason.
_NEEDED: tuple[tuple[str, str, tuple[Any, ...], str], ...] = (
    ("dataset", "dataloader_type", ("single",), "otherwise Bridge shuffles rows itself"),
    ("dataset", "attention", ATTENTION, "no other kind exists"),
    ("train", "micro_batch_size", (1,), "a packed row is a micro-batch of its own"),
    ("validation", "eval_micro_batch_size", (None, 1), "a packed row is a micro-batch of its own"),
    ("model", "calculate_per_token_loss", (True,), "otherwise every row weighs the same"),
    ("ddp", "average_in_collective", (False,), "otherwise the loss is divided twice"),
)


def check_settings(cfg: Any) -> None:
    """Refuse settings that differ from what ``use_packed_data`` set.

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
            continue  # not a setting of this release
        value = getattr(target, name)
        if value not in allowed:
            choices = " or ".join(map(repr, allowed))
            wrong.append(f"cfg.{part}.{name} is {value!r} and must be {choices} ({why})")
    if wrong:
        raise InputError(
            f"{'; '.join(wrong)}: use_packed_data sets {'it' if len(wrong) == 1 else 'them'}, so "
            f"remove the code that changes {'it' if len(wrong) == 1 else 'them'} afterwards"
        )


def check_schedule(cfg: Any, batch: int) -> None:
    """Refuse a training duration counted in rows if the global batch changes.

    Args:
        cfg: Bridge's ``ConfigContainer``, before it is changed.
        batch: Rows of the new global batch.

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
                f"cfg.train.{name} is {value}, which counts rows, but the global batch changes "
                f"from {cfg.train.global_batch_size} to {batch} rows; {instead}"
            )


def check_width(shape: RowShape, cfg: Any) -> None:
    """Refuse rows with more entries of ``cu_seqlens`` than context parallelism can hold.

    Args:
        shape: The shape of all rows of the run.
        cfg: Bridge's ``ConfigContainer``.

    Raises:
        InputError: There are too many.
    """
    ranks = max(cfg.model.context_parallel_size, evaluation_context_parallel_size(cfg))
    if problem := width_problem(shape.width, ranks):
        raise InputError(problem)


def check_index(index: PackIndex, row: int, cfg: Any) -> None:
    """Refuse rows that the recipe's parallelism cannot cut evenly.

    Args:
        index: The index of a split.
        row: Positions of a training row.
        cfg: Bridge's ``ConfigContainer``.

    Raises:
        InputError: Says how to make an index that fits.
    """
    plan, model = index.plan, cfg.model
    if plan.sequence_length != row:
        raise InputError(
            f"the pack index {index.path} has rows of {plan.sequence_length} positions, but the "
            f"training rows have {row}; make both with the same --sequence-length"
        )
    for ranks in {model.context_parallel_size, evaluation_context_parallel_size(cfg)}:
        least = segment_alignment(ranks)
        if plan.alignment % least:
            raise InputError(
                f"the pack index {index.path} has segments aligned to {plan.alignment}, but "
                f"{ranks} context-parallel ranks cut each segment into {least} equal chunks; make "
                f"one with megatron-packing pack --alignment {least}"
            )
        precision = _precision(cfg)
        multiple = row_multiple(
            context_parallel_size=ranks,
            tensor_model_parallel_size=model.tensor_model_parallel_size,
            sequence_parallel=model.sequence_parallel,
            fp8_recipe=precision.fp8_recipe if precision.fp8 else None,
            fp4=bool(precision.fp4),
        )
        if row % multiple:
            raise InputError(
                f"the pack index {index.path} has rows of {row} positions, but the recipe's "
                f"context, tensor and sequence parallelism and FP8 need a multiple of {multiple}; "
                f"make one with a --sequence-length that is a multiple of {multiple}"
            )


def _precision(cfg: Any) -> Any:
    """Return the object with the FP8 settings: ``cfg.mixed_precision``, or else the model."""
    if cfg.mixed_precision is None or getattr(cfg.model, "fp8", None):
        return cfg.model
    from megatron.bridge.training.mixed_precision import get_mixed_precision_config

    return get_mixed_precision_config(cfg.mixed_precision)
