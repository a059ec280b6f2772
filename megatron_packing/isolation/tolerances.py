# SPDX-License-Identifier: Apache-2.0
"""Derives from the precision of a model, and from its noise, what is no leak."""

from __future__ import annotations

import math
from dataclasses import dataclass

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor

from megatron_packing.isolation.comparison import Comparison

_TIMES_NOISE = 8.0
"""A difference counts if it is so many times what the kernels differ from themselves."""
_ALONE_WITH_SHARED_SCALES = 0.5
"""What layers may differ, relatively, between a document in a row and alone where the tokens of one
document change the scales of all. With emulated FP8 (tests/megatron/rounded_linear.py), 2,048
channels and 4 layers they differed by 0.08."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How exactly a run computes."""

    relative: float
    """The rounding of one number."""
    is_exact: bool
    """Whether what one document has in a row changes no bit of another: not with FP8, whose scales
    are of the whole row, and not with experts, whose kernels depend on how many tokens they get."""
    may_route_otherwise: bool = False
    """Whether rounding may send a token to another expert."""
    shares_scales: bool = False
    """Whether linear layers round to FP8 or FP4 with scales that all documents of a row share.

    Then other tokens of one document change how the others are rounded, and only gradients tell a
    leak. With emulated FP8 and 2,048 channels the first layer moved by 0.09 of its largest output,
    the fourth by 0.16, and losses by 0.36."""
    is_rough: bool = False
    """Whether the place of a document in a row changes what it computes by more than the usual
    rounding: with experts as above, and in models with recurrent layers, whose chunks start with
    the row and whose norms magnify the rounding of a small state. Measured in float32: 70 times the
    epsilon in Qwen3-Next (a document of one token), at most 14 times in 11 other models."""

    @classmethod
    def of(
        cls,
        dtype: torch.dtype,
        *,
        fp8: bool,
        shares_scales: bool,
        experts: bool,
        recurrent: bool,
        on_gpu: bool,
    ) -> Precision:
        """Return the precision of a run.

        Args:
            dtype: Of the parameters.
            fp8: Whether FP8 or FP4 is used.
            shares_scales: Whether one scale of theirs is for several documents.
            experts: Whether the model has experts.
            recurrent: Whether it has recurrent layers.
            on_gpu: Whether it runs on a GPU, where float32 products are rounded to TF32.
        """
        relative = torch.finfo(dtype).eps
        if dtype is torch.float32 and on_gpu:
            relative = 2.0**-10
        if fp8:
            relative = 2.0**-4
        is_low = relative > 1e-6
        return cls(
            relative,
            is_exact=not fp8 and not experts,
            may_route_otherwise=experts and is_low,
            shares_scales=shares_scales,
            is_rough=recurrent or (experts and is_low),
        )

    @property
    def replaced(self) -> float:
        """What may move, relatively, where other documents of the row changed."""
        if self.may_route_otherwise or self.shares_scales:
            return math.inf
        return self.relative * (0.0625 if self.is_exact else 2.0) + 1e-6

    @property
    def alone(self) -> float:
        """What may differ, relatively, between a document in a row and alone."""
        roundings = 64 if self.relative < 1e-6 else 4
        return (8 * roundings if self.is_rough else roundings) * self.relative

    @property
    def alone_in_layers(self) -> float:
        """The same for the outputs of layers."""
        return max(self.alone, _ALONE_WITH_SHARED_SCALES) if self.shares_scales else self.alone


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Largest values that are no fault."""

    replaced_loss: float
    alone_loss: float
    replaced: Tensor
    """float32, ``(slots,)``."""
    alone: Tensor

    @classmethod
    def of(cls, again: Comparison, typical_loss: float, precision: Precision) -> Tolerances:
        """Derive them from the noise of the kernels and the precision.

        Args:
            again: How far a row is from itself when it is run again.
            typical_loss: The mean loss of a position, by which the tolerance of losses grows.
            precision: How exactly the model computes.
        """
        noise = _TIMES_NOISE * again.moved.amax(1)
        scale = max(1.0, typical_loss)
        return cls(
            replaced_loss=float(noise[-1]) + scale * precision.replaced,
            alone_loss=float(noise[-1]) + scale * precision.alone,
            replaced=noise + precision.replaced,
            alone=noise + precision.alone_in_layers,
        )
