# SPDX-License-Identifier: Apache-2.0
"""Checks whether a Hugging Face model keeps the documents of a packed row apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch

from megatron_packing.errors import InputError
from megatron_packing.isolation import flash, kernels
from megatron_packing.isolation.causal_model import find_model
from megatron_packing.isolation.judge import judge
from megatron_packing.isolation.passes import run_rows
from megatron_packing.isolation.recorder import Recorder, decoder_layers, kinds_of_layers
from megatron_packing.isolation.result import Finding, ModelCheck, RowForm

FLASH = "flash_attention_2"
"""Its kernels are replaced on a CPU."""


def check_model(
    given: str,
    forms: Sequence[RowForm],
    attentions: Sequence[str],
    *,
    as_is: bool = False,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda _: None,
) -> ModelCheck:
    """Check a model with each form of rows and each attention implementation.

    Args:
        given: A folder with ``config.json``, a model type, or the class of a configuration.
        forms: How rows are told to the model.
        attentions: Names of transformers, such as "sdpa", or ``FLASH``.
        as_is: Whether the model keeps its size, and its weights.
        device: Torch's name of the device.
        progress: Called with the share of the work that is done.

    Raises:
        InputError: The model cannot be built or run.
    """
    uses_cpu = _device_type(device) == "cpu"
    source = find_model(given, as_is=as_is)
    findings: list[Finding] = []
    replaced: dict[str, None] = {}
    model = None
    for attention in attentions:
        with flash.stand_in() if uses_cpu and attention == FLASH else contextlib.nullcontext():
            try:
                model = source.build(attention, device)
            except (ValueError, ImportError) as error:
                lacks = "does not support" in str(error)
                problem = f"the model has no {attention}" if lacks else _said(error)
                findings += [
                    Finding(rows=form, attention=attention, outcome="absent", fault=problem)
                    for form in forms
                ]
                continue
            if attention == FLASH:  # transformers may have chosen a kernel from its hub
                model.config._attn_implementation = FLASH
            for form in forms:
                finding, stand_ins = check_rows(model, form, attention)
                findings.append(finding)
                replaced |= dict.fromkeys(stand_ins)
                progress(len(findings) / (len(attentions) * len(forms)))
    if model is None or all(one.outcome in ("absent", "refused") for one in findings):
        problem = next((one for one in findings if one.outcome == "refused"), findings[0]).fault
        raise InputError(f"{given} cannot be run with a packed row ({problem})")
    return ModelCheck(
        model=type(model).__name__,
        num_layers=len(decoder_layers(model)),
        num_parameters=sum(one.numel() for one in model.parameters()),
        kinds=kinds_of_layers(model),
        stand_ins=tuple(replaced),
        findings=tuple(findings),
    )


def check_rows(model: Any, form: RowForm, attention: str) -> tuple[Finding, tuple[str, ...]]:
    """Check a model that is built.

    Args:
        model: A causal language model of transformers, without dropout.
        form: How rows are told to it.
        attention: The name of its attention implementation.

    Returns:
        What was found, and the kernels that were replaced.

    Raises:
        InputError: The model cannot be watched.
    """
    on_cpu = model.device.type == "cpu"
    try:
        recorder = Recorder(model)
    except ValueError as error:
        raise InputError(f"{error}, so it cannot be checked") from error
    with contextlib.closing(recorder), kernels.stand_ins(model, on_cpu=on_cpu) as calls:
        try:
            passes = run_rows(model, form, recorder)
        except Exception as error:  # what a model raises says what it cannot do
            fault = _said(error)
            return Finding(rows=form, attention=attention, outcome="refused", fault=fault), ()
        finding = judge(model, form, attention, recorder, passes, calls)
    return finding, tuple(calls.seen)


def _device_type(device: str) -> str:
    try:
        return str(torch.empty(0, device=device).device.type)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"torch cannot use the --device {device} ({_said(error)}); give cpu, or cuda where "
            f"there is a GPU"
        ) from error


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
