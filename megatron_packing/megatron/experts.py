# SPDX-License-Identifier: Apache-2.0
"""What the balancing losses of experts weigh, where the loss is divided by trained tokens.

With ``calculate_per_token_loss`` Megatron multiplies the auxiliary and z losses of a micro-batch by
its tokens, trained or not, and the gradient is divided by the trained tokens of the global batch:
so they would weigh one over the share of trained tokens more than without it. Here those of each
row are multiplied by the row's denominator, as its other losses are: the batch's balancing loss is
the mean over rows, each weighed by what it adds to the denominator.
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

from megatron_packing.megatron.versions import core_version

_PREPARED = "counts_tokens_of_whole_rows"


def count_whole_rows(model: Any) -> None:
    """Make routers count a row's tokens over all ranks that share it; call it before the model."""
    for module in model.modules():
        if isinstance(module, Router) and not hasattr(module, _PREPARED):
            _count_whole_rows(module)


def weigh_balancing_losses(model: Any, output: Tensor, denominator: Tensor, tokens: Tensor) -> None:
    """Make the balancing losses of a row weigh what the row does; call it after the model.

    The factor is put in place when the backward pass of the row begins, which is when its output
    gets a gradient: other rows are between the two under pipeline parallelism, and routers run
    again under recomputation.

    Args:
        model: That gave the output, wrapped or not.
        output: Of the model, on any pipeline stage.
        denominator: Integer, (): of the whole row, on every rank; see ``thd.loss_weights``.
        tokens: Integer, (): positions of the whole row that routers count, without padding.
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

    output.register_hook(scale)


def _count_whole_rows(router: Any) -> None:
    """As ``count_whole_rows``, for one router.

    A balancing loss is a sum over ranks, each of which has divided its part by the tokens of all;
    so each part must be multiplied by the tokens of all. Megatron takes those of one rank times the
    ranks, or, where padding is not counted, those of all times the ranks: its reduction of the
    counts changes them in place.
    """
    setattr(router, _PREPARED, True)
    routing = router.routing
    attach = getattr(router, "attach_and_log_load_balancing_loss", None)
    if attach is None:  # a router without such losses
        return
    signature = inspect.signature(attach)
    ranks = router.tp_cp_group.size()
    # Until 0.19 Megatron did not multiply by the ranks.
    multiplied = ranks if core_version() >= (0, 19) else 1
    row_tokens: Tensor | None = None

    @functools.wraps(routing)
    def route(logits: Tensor, padding_mask: Tensor | None = None) -> Any:
        nonlocal row_tokens
        if padding_mask is None:
            row_tokens = None
        else:
            row_tokens = (~padding_mask).sum()
            if ranks > 1:
                torch.distributed.all_reduce(row_tokens, group=router.tp_cp_group)
        return routing(logits, padding_mask=padding_mask)

    @functools.wraps(attach)
    def attach_counting_whole_rows(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        if row_tokens is not None:
            # The global loss is divided by the rows of all data-parallel ranks too.
            rows = bound.arguments["reduce_group"].size() // ranks
            bound.arguments["valid_token_count"] = row_tokens * rows / multiplied
        return attach(*bound.args, **bound.kwargs)

    router.routing = route
    router.attach_and_log_load_balancing_loss = attach_counting_whole_rows
