# SPDX-License-Identifier: Apache-2.0
"""Computes the loss of a packed row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from megatron.core.rerun_state_machine import get_rerun_state_machine
from torch import Tensor

_NO_ZERO = 1e-30
"""Added to the reported denominator. If a step or an evaluation trains no token, Megatron divides 0
by 0 and logs no loss for the whole interval. This constant changes no bit of a positive
denominator."""


def loss_func(
    loss_mask: Tensor,
    denominator: Tensor,
    output: Tensor,
    *,
    further: Mapping[str, Tensor] | None = None,
    check_for_nan: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sum the weighted losses of the trained tokens.

    With ``calculate_per_token_loss`` Megatron divides the gradient by the sum of the denominators
    of the whole global batch: over micro-batches and over data- and context-parallel ranks. So a
    token's weight does not depend on how documents are packed or sharded. See
    ``thd.loss_weights``.

    Args:
        loss_mask: ``(1, positions)``, the weight of each label; 0 for labels that are not trained.
        denominator: int32, (): the row's denominator; 0 on all but one of the ranks that share it.
        output: ``(1, positions)``, the model's losses.
        further: What else is reported, by name: see ``ratio``. None: nothing.
        check_for_nan: Fail on a loss that is not finite (Megatron's --check-for-nan-in-loss).

    Returns:
        The sum, the denominator, and ``{"lm loss": [sum, denominator]}`` with what is further
        reported, which Megatron sums over ranks and divides for its log.
    """
    loss = torch.sum(output.view(-1).float() * loss_mask.view(-1))
    if check_for_nan:
        for rejected, name in ((torch.isnan, "NaN"), (torch.isinf, "Inf")):
            get_rerun_state_machine().validate_result(
                result=loss,
                rejection_func=rejected,
                message=f"found {name} in local forward loss calculation",
                tolerance=0.0,
                fatal=True,
            )
    report = {"lm loss": ratio(loss, denominator), **(further or {})}
    return loss, denominator.detach().clone(), report


def ratio(total: Tensor, count: Tensor) -> Tensor:
    """Return what Megatron sums over micro-batches and ranks, and then divides for its log.

    Returns:
        float32, ``(2,)``: the sum, and what it is divided by.
    """
    return torch.stack([total.detach().float(), count.float() + _NO_ZERO])
