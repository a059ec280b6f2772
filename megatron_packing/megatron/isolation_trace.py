# SPDX-License-Identifier: Apache-2.0
"""Lets the packing check run the model without a trace in the training that follows."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.rerun_state_machine import RerunMode, get_rerun_state_machine
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.moe.moe_logging import (
    MoEMetricsTracker,
    get_moe_metrics_tracker,
    set_moe_metrics_tracker,
)
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.utils import get_model_config
from torch import Tensor

from megatron_packing.megatron.device import own_device
from megatron_packing.megatron.versions import forget_seqlen_stats

_OFF: dict[str, Any] = {
    "no_sync_func": None,
    "grad_sync_func": None,
    "param_sync_func": None,
    "finalize_model_grads_func": None,
    "grad_scale_func": None,
    "timers": None,
    "moe_input_jitter_eps": None,
}
"""Fields of the model's configuration that would synchronize, scale, time or randomize."""


class Buffers:
    """The values that the buffers of a model had: routers count in them, for example."""

    def __init__(self, model: Sequence[Any]) -> None:
        self._saved = [
            (buffer, buffer.detach().clone())
            for chunk in model  # Megatron's wrapper has other things under the name "buffers"
            for module in chunk.modules()
            for buffer in module._buffers.values()
            if buffer is not None
        ]

    def restore(self) -> None:
        """Give all buffers the saved values."""
        with torch.no_grad():
            for buffer, saved in self._saved:
                buffer.copy_(saved)


@contextlib.contextmanager
def without_trace(model: Sequence[Any]) -> Iterator[Buffers]:
    """Undo on leaving what forward and backward passes change besides their results.

    Gradients are not reduced within, are zero afterwards, and balancing losses give none. Random
    states, buffers, statistics and the model's configuration are as before. Parameters are not
    changed by either pass.

    Args:
        model: The chunks of this rank.

    Yields:
        The buffers of the model, to restore them between two passes.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_random_states())
        stack.enter_context(_modes(model))
        stack.enter_context(_no_balancing())
        stack.enter_context(_no_validation())
        for chunk in model:
            stack.enter_context(_settings(get_model_config(chunk)))
            if hasattr(chunk, "no_sync"):
                stack.enter_context(chunk.no_sync())
        hooked = [chunk for chunk in model if _gathers_parameters(chunk)]
        for chunk in hooked:
            chunk.disable_forward_pre_hook(param_sync=False)
        buffers = Buffers(model)
        had_gradient = {id(p) for c in model for p in c.parameters() if p.grad is not None}
        try:
            yield buffers
        finally:
            buffers.restore()
            for chunk in model:
                if hasattr(chunk, "zero_grad_buffer"):
                    chunk.zero_grad_buffer()
                for parameter in chunk.parameters():
                    if id(parameter) not in had_gradient:
                        parameter.grad = None
            for chunk in hooked:
                chunk.enable_forward_pre_hook()
            _forget_attention_maxima(model)
            if training := sys.modules.get("megatron.training.training"):  # not in Bridge's
                forget_seqlen_stats(training)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()


def _gathers_parameters(chunk: Any) -> bool:
    """Whether forward hooks wait for parameters: ``--overlap-param-gather``."""
    return isinstance(chunk, DistributedDataParallel) and bool(
        chunk.remove_forward_pre_hook_handles
    )


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    devices = torch.cuda.is_available()
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    of_torch, of_device = torch.get_rng_state(), torch.cuda.get_rng_state() if devices else None
    of_megatron = get_cuda_rng_tracker().get_states()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)
        if of_device is not None:
            torch.cuda.set_rng_state(of_device)
        get_cuda_rng_tracker().set_states(of_megatron)


@contextlib.contextmanager
def _modes(model: Sequence[Any]) -> Iterator[None]:
    """Put the model in training mode, but what drops out in evaluation mode."""
    was = {module: module.training for chunk in model for module in chunk.modules()}
    config = get_model_config(model[0])
    drops = bool(config.hidden_dropout or config.attention_dropout)
    for module in was:
        module.training = not (drops and _drops(module))
    # Transformer Engine's attention drops by a number of its own, and cannot go backward in
    # evaluation mode.
    shares = {module: module.attention_dropout for module in was if _has_dropout_share(module)}
    for module in shares:
        module.attention_dropout = 0.0
    try:
        yield
    finally:
        for module, mode in was.items():
            module.training = mode
        for module, share in shares.items():
            module.attention_dropout = share


def _drops(module: torch.nn.Module) -> bool:
    """Whether a module drops activations in training mode: torch's, and whole layers."""
    return isinstance(module, torch.nn.Dropout) or hasattr(module, "hidden_dropout")


def _has_dropout_share(module: torch.nn.Module) -> bool:
    return isinstance(vars(module).get("attention_dropout"), float)


def _forget_attention_maxima(model: Sequence[Any]) -> None:
    """Let ``--qk-clip`` and ``--log-max-attention-logit`` begin anew."""
    for chunk in model:
        for module in chunk.modules():
            if vars(module).get("current_max_attn_logits") is not None:
                module.current_max_attn_logits = None


@contextlib.contextmanager
def _settings(config: Any) -> Iterator[None]:
    was = {name: getattr(config, name) for name in _OFF if hasattr(config, name)}
    for name in was:
        setattr(config, name, _OFF[name])
    try:
        yield
    finally:
        for name, value in was.items():
            setattr(config, name, value)


@contextlib.contextmanager
def _no_balancing() -> Iterator[None]:
    """Record balancing losses apart, and let them give no gradient."""
    tracker, scaler = get_moe_metrics_tracker(), MoEAuxLossAutoScaler
    was = {name: vars(scaler)[name] for name in ("main_loss_backward_scale", "set_loss_scale")}

    def keep_zero(_scale: Tensor) -> None:
        pass

    scaler.main_loss_backward_scale = torch.zeros(1, device=own_device())
    scaler.set_loss_scale = staticmethod(keep_zero)
    set_moe_metrics_tracker(MoEMetricsTracker())
    try:
        yield
    finally:
        for name, value in was.items():
            setattr(scaler, name, value)
        set_moe_metrics_tracker(tracker)


@contextlib.contextmanager
def _no_validation() -> Iterator[None]:
    """Let Megatron's machine for reruns only refuse results that are not finite."""
    machine = get_rerun_state_machine()
    mode, machine.mode = machine.mode, RerunMode.DISABLED
    try:
        yield
    finally:
        machine.mode = mode
