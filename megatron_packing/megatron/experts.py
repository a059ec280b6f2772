# SPDX-License-Identifier: Apache-2.0
"""Corrects the weight of MoE balancing losses when only some tokens are trained.

With ``calculate_per_token_loss`` Megatron multiplies the auxiliary and z losses of a micro-batch by
all its tokens, trained or not. It then divides the gradient by the trained tokens of the global
batch, so these losses weigh too much: by 1 / (share of trained tokens). Here the losses of a row
are multiplied by the row's denominator instead, like its other losses. The batch's balancing loss
is then the mean over rows, weighted by their denominators.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import Router
from megatron.core.utils import get_model_config
from torch import Tensor

from megatron_packing.megatron.versions import balancing_losses_are_multiplied_by_ranks

_PREPARED = "counts_tokens_of_whole_rows"


class _Row:
    """The row whose routers run, forward or again in a backward pass."""

    tokens: Tensor | None = None
    """Integer, (): its positions without padding, on all ranks together; None: not known."""


def count_whole_rows(model: Any, tokens: Tensor | None) -> None:
    """Make routers count a row's tokens over all ranks that share it. Call before the model.

    Args:
        model: The model, wrapped or not.
        tokens: Integer, (): positions of the whole row without padding. None if routers get no
            padding mask: then they count as Megatron does.
    """
    _Row.tokens = tokens
    if tokens is None:
        return
    for module in model.modules():
        if isinstance(module, Router) and not hasattr(module, _PREPARED):
            _count_whole_rows(module)


def weigh_balancing_losses(model: Any, output: Tensor, denominator: Tensor, tokens: Tensor) -> None:
    """Scale the balancing losses of a row by the row's denominator. Call after the model.

    The factor is set when the row's backward pass begins, that is when its output gets a gradient.
    Under pipeline parallelism other rows run between a row's forward and backward pass, and under
    recomputation routers run again.

    Args:
        model: The model that gave the output, wrapped or not.
        output: The model's output on this pipeline stage.
        denominator: Integer, (): the whole row's denominator, on every rank; see
            ``thd.loss_weights``.
        tokens: As for ``count_whole_rows``.
    """
    config = get_model_config(model)
    if not output.requires_grad or not config.calculate_per_token_loss:
        return
    factor = denominator / tokens.clamp(min=1)

    def scale(gradient: Tensor) -> None:
        grad_scale = config.grad_scale_func
        one = torch.ones(1, device=gradient.device)
        loss_scale = one if grad_scale is None else grad_scale(one)
        MoEAuxLossAutoScaler.set_loss_scale(loss_scale * factor)
        _Row.tokens = tokens

    output.register_hook(scale)


def _count_whole_rows(router: Any) -> None:
    """Make one router count a row's tokens over all ranks that share it.

    A balancing loss is a sum over ranks. Each rank divides its part by the token count of all
    ranks, so each part must be multiplied by that count. Megatron multiplies by one rank's count
    times the number of ranks. If padding is excluded, it multiplies by the count of all ranks times
    the number of ranks, because its all-reduce changes the counts in place.
    """
    setattr(router, _PREPARED, True)
    attach = getattr(router, "attach_and_log_load_balancing_loss", None)
    if attach is None:  # this router has no balancing losses
        return
    signature = inspect.signature(attach)
    ranks = router.tp_cp_group.size()
    multiplied = ranks if balancing_losses_are_multiplied_by_ranks() else 1

    @functools.wraps(attach)
    def attach_counting_whole_rows(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        if _Row.tokens is not None:
            # The global loss is also divided by the rows of all data-parallel ranks.
            rows = bound.arguments["reduce_group"].size() // ranks
            bound.arguments["valid_token_count"] = _Row.tokens * rows / multiplied
        return attach(*bound.args, **bound.kwargs)

    router.attach_and_log_load_balancing_loss = attach_counting_whole_rows
