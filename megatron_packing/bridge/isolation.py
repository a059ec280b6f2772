# SPDX-License-Identifier: Apache-2.0
"""The packing check in Bridge's trainer: proves that the documents of a row do not see each other.

``use_packed_data(..., packing_check=True)`` asks for it. It runs and judges what the check in
Megatron's trainer does: see ``megatron.isolation_run`` and ``megatron.isolation_judge``.
"""

from __future__ import annotations

import functools
import importlib
import time
from argparse import Namespace
from typing import Any

import megatron_packing.needs.megatron_bridge  # noqa: F401

import torch
from megatron.bridge.training.state import GlobalState
from megatron.bridge.training.utils.train_utils import prepare_forward_step_func
from megatron.core.utils import get_model_config

from megatron_packing.bridge.dataset import PackedRowDataset, as_bridge_reads
from megatron_packing.bridge.versions import why_not_checked
from megatron_packing.errors import InputError
from megatron_packing.first_rank import is_rank_0
from megatron_packing.megatron.isolation_report import describe_fault, describe_findings
from megatron_packing.megatron.isolation_rows import Sample, agree_on_row, find_row
from megatron_packing.megatron.isolation_run import CheckedRun
from megatron_packing.megatron.isolation_verdict import has_layers, judge_run
from megatron_packing.report.console import console
from megatron_packing.thd.layout import positions_of

_OFF = "packing_check=False"
_own_train: Any = None
"""Bridge's function while ``check_before_training`` has taken its place."""


def check_before_training(cfg: Any, dataset: PackedRowDataset) -> None:
    """Let the next call of Bridge's ``train`` begin with the check.

    Args:
        cfg: Bridge's ``ConfigContainer``.
        dataset: The training rows.
    """
    global _own_train
    # pretrain and finetune call the function by this name.
    trainer: Any = importlib.import_module("megatron.bridge.training.pretrain")
    own_train = trainer.train = _own_train or trainer.train  # an earlier start may have failed
    reason = why_not_checked(cfg)
    if reason:
        _say(f"> packing check: left out, as {reason}")
        return
    _own_train = own_train

    @functools.wraps(own_train)
    def check_and_train(forward_step_func: Any, model: Any, *others: Any, **more: Any) -> Any:
        global _own_train
        trainer.train, _own_train = own_train, None
        state = next(one for one in (*others, *more.values()) if isinstance(one, GlobalState))
        check_isolation(prepare_forward_step_func(forward_step_func, state), model, state, dataset)
        return own_train(forward_step_func, model, *others, **more)

    trainer.train = check_and_train


def check_isolation(
    forward_step: Any, model: list[Any], state: GlobalState, dataset: PackedRowDataset
) -> None:
    """Run the check on all ranks.

    Args:
        forward_step: The run's own, without the state.
        model: The chunks of this rank.
        state: Bridge's, with what was loaded from a checkpoint.
        dataset: The training rows.

    Raises:
        InputError: Documents see each other; on every rank, with the same sentence.
    """
    begin = time.monotonic()
    first = int(state.train_state.consumed_train_samples)
    sample, layout = agree_on_row(lambda: find_row(_RowsWithLengths(dataset), first))
    if layout is None:
        _say("> packing check: left out, as none of the first rows holds two documents")
        return
    if not all(has_layers(chunk) for chunk in model):
        _say("> packing check: left out, as the model has no decoder of layers")
        return
    run = CheckedRun(
        forward_step=forward_step,
        model=model,
        args=_arguments(model, state.cfg),
        schedule={},
        sample=sample,
        layout=layout,
        restarts=positions_of(state.cfg.dataset.attention) == "restart",
        present=as_bridge_reads,
    )
    verdict = judge_run(run)
    if verdict is None:
        _say("> packing check: left out, as the forward step gives no loss for each position")
        return
    if verdict.fault:
        raise InputError(describe_fault(verdict.fault, _OFF))
    seconds = time.monotonic() - begin
    _say(describe_findings(verdict.findings, verdict.tolerances, seconds))


class _RowsWithLengths:
    """Rows of a dataset as the check changes them."""

    def __init__(self, dataset: PackedRowDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, sample: int) -> Sample:
        row = self._dataset.read(sample)
        # Bridge divides by what the loss mask adds up to.
        row["denominator"] = row["loss_mask"].sum().to(torch.int64)
        return row


def _arguments(model: list[Any], cfg: Any) -> Namespace:
    """Return what stands for Megatron's arguments."""
    config = get_model_config(model[0])
    return Namespace(
        seq_length=cfg.dataset.seq_length,
        decoder_seq_length=None,
        micro_batch_size=1,
        context_parallel_size=config.context_parallel_size,
        num_experts=config.num_moe_experts,
        fp8=config.fp8,
        fp8_recipe=config.fp8_recipe,
        fp4=config.fp4,
        use_megatron_fsdp=False,
    )


def _say(line: str) -> None:
    if is_rank_0():
        console.print(line)
