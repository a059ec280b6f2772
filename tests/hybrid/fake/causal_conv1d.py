# SPDX-License-Identifier: Apache-2.0
"""A reference for the kernels of ``causal_conv1d``, which are CUDA alone.

A position's output is a weighted sum of itself and the ``width - 1`` positions before it. With
``seq_idx`` only positions of the same segment count (``causal_conv1d_fwd.cu``: a product is left
out where ``seq_idx`` differs from that of the output).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

VERSION = "1.6.0"


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None, silu: bool
) -> Tensor:
    """Return ``(batch, channels, length)``.

    Args:
        x: ``(batch, channels, length)``.
        weight: ``(channels, width)``; its last column weighs the position itself.
        bias: ``(channels,)``.
        seq_idx: int32, ``(batch, length)``: the number of each position's segment.
        silu: Whether the activation is SiLU; otherwise there is none.
    """
    if seq_idx is not None and (seq_idx.dtype != torch.int32 or seq_idx.shape != x[:, 0].shape):
        raise RuntimeError(
            f"seq_idx is {seq_idx.dtype} {tuple(seq_idx.shape)}, but the kernel reads int32 "
            f"{tuple(x[:, 0].shape)}"
        )
    width = weight.shape[1]
    total = x * weight[:, -1:]
    for distance in range(1, min(width, x.shape[2])):
        before = functional.pad(x[..., :-distance], (distance, 0))
        if seq_idx is not None:
            same = seq_idx[:, distance:] == seq_idx[:, :-distance]
            before = before * functional.pad(same, (distance, 0))[:, None]
        total = total + before * weight[:, -1 - distance, None]
    if bias is not None:
        total = total + bias[:, None]
    return functional.silu(total) if silu else total


def forward(x, weight, bias, seq_idx, initial_states, final_states_out, silu):
    """``causal_conv1d_fwd_function``."""
    assert initial_states is None
    assert final_states_out is None
    return convolve(x, weight, bias, seq_idx, silu)


def backward(
    x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, return_dinitial, silu
):
    """``causal_conv1d_bwd_function``: writes into ``dx`` if it is given."""
    assert initial_states is None
    assert dfinal_states is None
    assert not return_dinitial
    given = [tensor.detach().requires_grad_() for tensor in (x, weight, bias) if tensor is not None]
    with torch.enable_grad():
        out = convolve(*given[:2], given[2] if bias is not None else None, seq_idx, silu)
    found = torch.autograd.grad(out, given, dout)
    dx = found[0] if dx is None else dx.copy_(found[0])
    return dx, found[1], found[2] if bias is not None else None, None


def _not_in_training(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("the stand-in has only what a training step calls")


def install() -> None:
    """Make ``causal_conv1d`` importable."""
    package = ModuleType("causal_conv1d")
    package.__path__ = []
    contents = {
        "causal_conv1d": {"__version__": VERSION, "causal_conv1d_fn": _not_in_training},
        "causal_conv1d.causal_conv1d_varlen": {"causal_conv1d_varlen_states": _not_in_training},
        "causal_conv1d.cpp_functions": {
            "causal_conv1d_fwd_function": forward,
            "causal_conv1d_bwd_function": backward,
            "causal_conv1d_update_function": _not_in_training,
        },
    }
    for name, values in contents.items():
        module = package if name == package.__name__ else ModuleType(name)
        vars(module).update(values)
        sys.modules[name] = module
