# SPDX-License-Identifier: Apache-2.0
"""Runs the packing check on a model, and judges: in Megatron's trainer, Bridge's, and alone."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from megatron.core.utils import get_attr_wrapped_model, get_model_config

from megatron_packing.isolation.tolerances import Precision, Tolerances
from megatron_packing.megatron.batch import needs_segment_index
from megatron_packing.megatron.isolation_judge import Fault, find_fault
from megatron_packing.megatron.isolation_recorder import Recorder, Sign
from megatron_packing.megatron.isolation_run import CheckedRun, Findings, run_check
from megatron_packing.megatron.isolation_trace import without_trace
from megatron_packing.megatron.versions import flag_value

_SCALES_WITHIN_A_TOKEN = ("mxfp8", "blockwise")
"""FP8 recipes that have no scale for several tokens of activations."""


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
        with without_trace(model) as buffers:
            findings = run_check(run, recorder, buffers)
    finally:
        recorder.close()
    if findings is None:
        return None
    precision = Precision.of(
        config.params_dtype,
        fp8=bool(flag_value(args, "fp8") or flag_value(args, "fp4")),
        shares_scales=shares_scales(args),
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


def shares_scales(args: Namespace) -> bool:
    """Whether linear layers round to FP8 or FP4 with scales for several documents."""
    fp8 = flag_value(args, "fp8") and args.fp8_recipe not in _SCALES_WITHIN_A_TOKEN
    return bool(fp8 or flag_value(args, "fp4"))


def has_layers(chunk: Any) -> bool:
    """Whether a chunk of a model has a decoder of layers, which the check watches."""
    inner = get_attr_wrapped_model(chunk, "pre_process", allow_none=False, return_model_obj=True)
    return hasattr(inner, "decoder")


def _is_on_gpu(chunk: Any) -> bool:
    return next(chunk.parameters()).device.type != "cpu"
