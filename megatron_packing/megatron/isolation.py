# SPDX-License-Identifier: Apache-2.0
"""Proves before the first step that the documents of a row do not see each other.

``--packing-check`` runs one real row through the run's own model, kernels and layout: as it is,
again, with another document in place of its first, and some of its documents alone. See
``isolation_run`` for what is run and ``isolation_judge`` for what is a fault.
"""

from __future__ import annotations

import functools
import time
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.utils import get_attr_wrapped_model, get_model_config
from megatron.training import get_args, print_rank_0, training

from megatron_packing.errors import InputError
from megatron_packing.isolation.tolerances import Precision, Tolerances
from megatron_packing.megatron.batch import needs_segment_index
from megatron_packing.megatron.device import own_device
from megatron_packing.megatron.isolation_judge import Fault, find_fault
from megatron_packing.megatron.isolation_recorder import Recorder, Sign
from megatron_packing.megatron.isolation_report import describe_fault, describe_findings
from megatron_packing.megatron.isolation_rows import RowLayout, Sample, find_row
from megatron_packing.megatron.isolation_run import CheckedRun, Findings, run_check
from megatron_packing.megatron.isolation_trace import without_trace
from megatron_packing.megatron.versions import flag_value
from megatron_packing.thd.layout import positions_of

_SCALES_WITHIN_A_TOKEN = ("mxfp8", "blockwise")
"""FP8 recipes that have no scale for several tokens of activations."""
_datasets: list[tuple[Any, int]] = []
"""The training datasets of this rank's chunks, None if it does not read, and the first sample."""


def check_before_training(dataset: Any, args: Namespace, first_sample: int) -> None:
    """Let the next call of Megatron's ``train`` begin with the check, if this start is to have one.

    Args:
        dataset: The training dataset, None on ranks that do not read.
        args: Megatron's arguments, with what was loaded from a checkpoint.
        first_sample: The sample that training reads first.
    """
    if args.packing_check is False or (args.packing_check is None and args.iteration > 0):
        return
    if args.packing_attention == "pack":
        print_rank_0("> packing check: left out, as --packing-attention pack lets documents mix")
        return
    if flag_value(args, "fine_grained_activation_offloading"):
        print_rank_0(
            "> packing check: left out, as --fine-grained-activation-offloading learns from the "
            "first passes what to offload"
        )
        return
    _datasets.append((dataset, first_sample))
    if len(_datasets) > 1:  # of another chunk
        return
    train = training.train

    @functools.wraps(train)
    def check_and_train(forward_step_func: Any, model: Any, *others: Any, **more: Any) -> Any:
        schedule: dict[str, Any] = {
            name: more[name] for name in ("p2p_communicator", "pg_collection") if name in more
        }
        training.train = train  # a restart within the process decides anew
        check_isolation(forward_step_func, model, schedule)
        _datasets.clear()
        return train(forward_step_func, model, *others, **more)

    training.train = check_and_train


def check_isolation(forward_step: Any, model: list[Any], schedule: dict[str, Any]) -> None:
    """Run the check on all ranks.

    Args:
        forward_step: The run's own.
        model: The chunks of this rank.
        schedule: Further arguments of Megatron's schedule.

    Raises:
        InputError: Documents see each other; on every rank, with the same sentence.
    """
    begin = time.monotonic()
    args = get_args()
    sample, layout = _read()
    if layout is None:
        print_rank_0(
            "> packing check: left out, as none of the first rows holds two documents; "
            "megatron-packing report says how documents fill rows"
        )
        return
    if not all(_has_layers(chunk) for chunk in model):
        print_rank_0("> packing check: left out, as the model has no decoder of layers")
        return
    if _shares_scales(args) and args.use_megatron_fsdp:
        print_rank_0(
            "> packing check: left out, as documents share FP8 scales, so that only gradients tell "
            "a leak, which are not looked at with --use-megatron-fsdp"
        )
        return
    position_ids = args.packing_position_ids or positions_of(args.packing_attention)
    run = CheckedRun(
        forward_step=forward_step,
        model=model,
        args=args,
        schedule=schedule,
        sample=sample,
        layout=layout,
        restarts=position_ids == "restart",
    )
    verdict = judge_run(run)
    if verdict is None:
        print_rank_0(
            "> packing check: left out, as the forward step gives no loss for each position"
        )
        return
    if verdict.fault:
        raise InputError(describe_fault(verdict.fault))
    seconds = time.monotonic() - begin
    print_rank_0(describe_findings(verdict.findings, verdict.tolerances, seconds))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check saw, and whether anything is wrong."""

    findings: Findings
    tolerances: Tolerances
    fault: Fault | None


def judge_run(run: CheckedRun) -> Verdict | None:
    """Run a row through a model in all ways of the check, and judge what comes of it.

    Args:
        run: The model, the row, and what runs it.

    Returns:
        The same on all ranks; None if the forward step gives no loss for each position.
    """
    model, args = run.model, run.args
    config = get_model_config(model[0])
    recorder = Recorder(model, needs_segment_index=needs_segment_index(model[0]))
    recorder.watch()
    try:
        with without_trace(model, args) as buffers:
            findings = run_check(run, recorder, buffers)
    finally:
        recorder.close()
    if findings is None:
        return None
    precision = Precision.of(
        config.params_dtype,
        fp8=bool(flag_value(args, "fp8") or flag_value(args, "fp4")),
        shares_scales=_shares_scales(args),
        experts=args.num_experts is not None,
        recurrent=bool(findings.signs[:, [Sign.IS_MAMBA, Sign.IS_DELTA_NET]].any()),
        on_gpu=_is_on_gpu(model[0]),
    )
    tolerances = Tolerances.of(findings.comparisons["again"], findings.typical_loss, precision)
    fault = find_fault(
        findings,
        tolerances,
        recomputes=config.recompute_granularity is not None,
        context_parallel=args.context_parallel_size > 1,
    )
    return Verdict(findings, tolerances, fault)


def _shares_scales(args: Namespace) -> bool:
    """Whether linear layers round to FP8 or FP4 with scales for several documents."""
    fp8 = flag_value(args, "fp8") and args.fp8_recipe not in _SCALES_WITHIN_A_TOKEN
    return bool(fp8 or flag_value(args, "fp4"))


def _read() -> tuple[Sample | None, RowLayout | None]:
    """Read a row on the first rank of each tensor-parallel group, and tell the others its layout.

    Returns:
        The row, None on the other ranks, and its layout, None if no row has two documents.

    Raises:
        InputError: Another rank could not read.
    """
    sample, problem = None, None
    reads = parallel_state.get_tensor_model_parallel_rank() == 0
    if reads:
        try:
            sample = find_row(*_with_tokens())
        except Exception as error:
            problem = error
    failed = torch.tensor([problem is not None], dtype=torch.int32, device=own_device())
    torch.distributed.all_reduce(failed, op=torch.distributed.ReduceOp.MAX)
    if problem is not None:
        raise problem
    if failed.item():
        raise InputError(
            "another rank could not read the row of the packing check; its own log says why"
        )
    layouts = [None if sample is None else RowLayout.of(sample)]
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() > 1:
        source = parallel_state.get_tensor_model_parallel_src_rank()
        torch.distributed.broadcast_object_list(layouts, source, group=group)
    return sample, layouts[0]


def _with_tokens() -> tuple[Any, int]:
    """Return the dataset of a chunk that needs tokens, or else of any, and the first sample."""
    return next((one for one in _datasets if one[0].config.packing_with_tokens), _datasets[0])


def _has_layers(chunk: Any) -> bool:
    inner = get_attr_wrapped_model(chunk, "pre_process", allow_none=False, return_model_obj=True)
    return hasattr(inner, "decoder")


def _is_on_gpu(chunk: Any) -> bool:
    return next(chunk.parameters()).device.type != "cpu"
