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
from typing import Any

from megatron.core import parallel_state
from megatron.training import get_args, print_rank_0, training

from megatron_packing.errors import InputError
from megatron_packing.megatron.isolation_report import describe_fault, describe_findings
from megatron_packing.megatron.isolation_rows import agree_on_row, find_row
from megatron_packing.megatron.isolation_run import CheckedRun
from megatron_packing.megatron.isolation_verdict import has_layers, judge_run, shares_scales
from megatron_packing.megatron.versions import flag_value
from megatron_packing.thd.layout import positions_of

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
    reads = parallel_state.get_tensor_model_parallel_rank() == 0
    sample, layout = agree_on_row((lambda: find_row(*_with_tokens())) if reads else None)
    if layout is None:
        print_rank_0(
            "> packing check: left out, as none of the first rows holds two documents; "
            "megatron-packing report says how documents fill rows"
        )
        return
    if not all(has_layers(chunk) for chunk in model):
        print_rank_0("> packing check: left out, as the model has no decoder of layers")
        return
    if shares_scales(args) and args.use_megatron_fsdp:
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


def _with_tokens() -> tuple[Any, int]:
    """Return the dataset of a chunk that needs tokens, or else of any, and the first sample."""
    return next((one for one in _datasets if one[0].config.packing_with_tokens), _datasets[0])
