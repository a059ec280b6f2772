# SPDX-License-Identifier: Apache-2.0
"""Rounds what linear layers multiply to FP8 as tensorwise recipes do, on any device.

Inputs and weights become E4M3 and gradients E5M2, each with one scale for the whole tensor, so that
the documents of a row share scales.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from megatron.core.tensor_parallel import layers
from torch import Tensor


def _round(tensor: Tensor, kind: torch.dtype) -> Tensor:
    scale = torch.finfo(kind).max / tensor.abs().max().clamp(min=1e-12).float()
    return ((tensor.float() * scale).to(kind).float() / scale).to(tensor.dtype)


class _Rounded(torch.autograd.Function):
    """Round a tensor to E4M3; its gradient passes."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return _round(tensor, torch.float8_e4m3fn)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


class _RoundedGradient(torch.autograd.Function):
    """Round the gradient of a tensor to E5M2; the tensor passes."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _round(gradient, torch.float8_e5m2)


rounded_weights: set[int] = set()
"""The weights that were rounded, by ``id``."""


def install(vocabulary: int) -> None:
    """Round all linear layers but the output layer, which Megatron leaves in half precision.

    Args:
        vocabulary: The output layer's number of outputs, which no other layer may have.
    """
    own = layers.linear_with_grad_accumulation_and_async_allreduce

    @functools.wraps(own)  # which has an attribute
    def rounded(values: Tensor, weight: Tensor, **settings: Any) -> Tensor:
        if weight.shape[0] == vocabulary:
            return own(values, weight, **settings)
        rounded_weights.add(id(weight))
        output = own(_Rounded.apply(values), _Rounded.apply(weight), **settings)
        return _RoundedGradient.apply(output)

    layers.linear_with_grad_accumulation_and_async_allreduce = rounded
