# SPDX-License-Identifier: Apache-2.0
"""Multi-token prediction on packed rows: targets stay in their document, and losses are sums.

Megatron predicts the token after next from a row that it shifts by one position, and again for each
further depth (DeepSeek-V3, arXiv 2412.19437, section 2.2). On packed rows three things must differ
from what its ``transformer/multi_token_prediction.py`` does:

- The last position of a document has no next token: not that of the next document, and not padding.
- Megatron multiplies a micro-batch's loss by its trained tokens over its targets. So a target
  weighs more in a row of short documents, which lose more of their targets. Here a row contributes
  the weighted sum of its losses, and Megatron divides by the denominators of the whole global
  batch, as for the main loss. That is equation 24 of the paper, which divides every depth by the
  tokens of the sequence.
- Megatron shifts one document at a time, and the host waits for the GPU at each. Here all positions
  are looked up at once.

Megatron's modules are imported by those who need them: most models have no such layers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_packing.megatron.loss import ratio
from megatron_packing.megatron.packed_rotation import rotary_positions
from megatron_packing.megatron.versions import (
    multi_token_acceptance_counts,
    require_multi_token_prediction,
)


def has_multi_token_layers(settings: Any, vp_stage: int | None = None) -> bool:
    """Whether this pipeline stage has layers of multi-token prediction, which embed tokens.

    Args:
        settings: Megatron's arguments or a ``TransformerConfig``.
        vp_stage: The model chunk under virtual pipeline parallelism; None: any chunk of this rank.

    Raises:
        InputError: It has, and this megatron-core is older than 0.19.
    """
    if not getattr(settings, "mtp_num_layers", None):
        return False
    require_multi_token_prediction()
    from megatron.core.transformer.multi_token_prediction import mtp_on_this_rank
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

    layout = settings.pipeline_model_parallel_layout
    if isinstance(layout, str):  # in arguments
        stages = settings.pipeline_model_parallel_size
        layout = PipelineParallelLayerLayout.from_str(layout, stages)
    return bool(
        mtp_on_this_rank(
            layout=layout,
            mtp_num_layers=settings.mtp_num_layers,
            ignore_virtual=vp_stage is None,
            vp_stage=vp_stage,
        )
    )


@contextmanager
def multi_token_row(
    cu_seqlens: Tensor,
    real_lengths: Tensor,
    held: int,
    denominator: Tensor | None,
    figures: dict[str, Tensor],
) -> Iterator[None]:
    """Let Megatron's layers and losses of multi-token prediction work on one packed row.

    Within the context, which holds one call of the model, they run as this module says.

    Args:
        cu_seqlens: int32, ``(width,)``: offsets of the documents of the row, with their padding.
        real_lengths: int32, ``(width - 1,)``: their positions without padding.
        held: Positions that this context-parallel rank holds.
        denominator: int32, (): the row's denominator, as for ``loss_func``; None on stages without
            losses.
        figures: Gets what the losses show: ``loss_func`` reports it.
    """
    _replace_functions()
    _rows.append(_Row(cu_seqlens, real_lengths, held, denominator, figures))
    try:
        yield
    finally:
        _rows.pop()


def next_positions(
    cu_seqlens: Tensor, real_lengths: Tensor, held: int, *, size: int = 1, rank: int = 0
) -> tuple[Tensor, Tensor]:
    """Say where the next position of each document is held.

    Launches a fixed number of kernels and does not wait for the device.

    Args:
        cu_seqlens: As in ``multi_token_row``; repeated offsets are empty segments.
        real_lengths: As there.
        held: Positions that each context-parallel rank holds.
        size: Context-parallel ranks.
        rank: This rank among them. See ``thd.context_parallel`` for what it holds.

    Returns:
        int64, ``(held,)``: the next position, among the positions of all ranks, those of rank 0
        first; 0 where there is none. And bool, ``(held,)``: whether there is one, so False at the
        last position of each document and at padding.
    """
    place = torch.arange(held, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    offsets = cu_seqlens // size
    segment = torch.searchsorted(offsets, place, right=True) - 1  # the last one of empty ones
    after = rotary_positions(cu_seqlens, held, size=size, rank=rank) + 1
    exists = after < real_lengths[segment]
    if size == 1:
        return (place + 1).long() * exists, exists
    chunk = (offsets[segment + 1] - offsets[segment]) // 2
    number = after // chunk  # of the 2 * size chunks of its segment
    owner = torch.minimum(number, 2 * size - 1 - number)
    within = after - number * chunk + (number >= size) * chunk
    return (owner * held + offsets[segment] + within).long() * exists, exists


@dataclass
class _Row:
    """The packed row that the model runs on."""

    cu_seqlens: Tensor
    real_lengths: Tensor
    held: int
    denominator: Tensor | None
    figures: dict[str, Tensor]

    def shift(self, tensor: Tensor) -> Tensor:
        """Give each position what the next position of its document has.

        Args:
            tensor: ``(1, positions)`` of this rank. A padding mask, which is bool, may be its share
                under sequence parallelism.

        Returns:
            The last positions of documents have 0. A padding mask is returned as it is: all
            positions of documents are computed, and routers of experts count them.
        """
        if tensor.dtype is torch.bool:
            return tensor
        source, exists = self._next
        group = parallel_state.get_context_parallel_group()
        everywhere = tensor if group.size() == 1 else _gather(tensor, group)
        return torch.where(exists, everywhere[..., source], 0)

    @functools.cached_property
    def _next(self) -> tuple[Tensor, Tensor]:
        group = parallel_state.get_context_parallel_group()
        return next_positions(
            self.cu_seqlens, self.real_lengths, self.held, size=group.size(), rank=group.rank()
        )


_rows: list[_Row] = []
"""The row of the model that runs; empty outside of ``multi_token_row``."""


def _gather(tensor: Tensor, group: Any) -> Tensor:
    """Return the tensors of a group's ranks, one after another."""
    parts = [torch.empty_like(tensor) for _ in range(group.size())]
    torch.distributed.all_gather(parts, tensor.contiguous(), group=group)
    return torch.cat(parts, dim=-1)


@functools.cache
def _replace_functions() -> None:
    """Replace two functions of Megatron that ``multi_token_row`` is about.

    Megatron calls them by name and has no other seam. Outside of ``multi_token_row`` they are
    Megatron's. Takes effect for the rest of the process.

    Raises:
        InputError: This megatron-core is older than 0.19.
    """
    require_multi_token_prediction()
    from megatron.core.models.gpt import gpt_model
    from megatron.core.models.hybrid import hybrid_model
    from megatron.core.transformer import multi_token_prediction

    shift, losses = multi_token_prediction.roll_tensor, gpt_model.process_mtp_loss

    @functools.wraps(shift)
    def roll_tensor(tensor: Tensor | None, *args: Any, **settings: Any) -> Any:
        if not _rows or tensor is None:
            return shift(tensor, *args, **settings)
        shifted = _rows[-1].shift(tensor)
        return shifted, shifted.sum() if settings.get("return_sum", True) else None

    @functools.wraps(losses)
    def process_mtp_loss(*args: Any, **given: Any) -> Tensor:
        if not _rows or given.get("labels") is None:
            hidden: Tensor = losses(*args, **given)
            return hidden
        return _add_losses(_rows[-1], **given)

    multi_token_prediction.roll_tensor = roll_tensor
    gpt_model.process_mtp_loss = hybrid_model.process_mtp_loss = process_mtp_loss


def _add_losses(
    row: _Row,
    *,
    hidden_states: Tensor,
    labels: Tensor,
    loss_mask: Tensor,
    output_layer: Any,
    output_weight: Tensor | None,
    runtime_gather_output: bool | None,
    is_training: bool,
    compute_language_model_loss: Any,
    config: Any,
    tp_group: Any = None,
    scale_logits_fn: Any = None,
    **_: Any,
) -> Tensor:
    """Take the place of Megatron's ``process_mtp_loss``, with its arguments.

    ``loss_mask`` has the weights of the labels. Returns the hidden states of the main model, to
    whose gradient those of the losses are added.
    """
    from megatron.core.transformer.multi_token_prediction import MTPLossAutoScaler

    main, *depths = hidden_states.chunk(1 + config.mtp_num_layers, dim=0)
    if config.mtp_detach_heads:
        weight = output_layer.weight if output_weight is None else output_weight
        output_weight = weight.detach()
    assert row.denominator is not None  # labels and weights come with it
    count_accepted = multi_token_acceptance_counts() if is_training else None
    for depth, hidden in enumerate(depths, 1):
        labels, loss_mask = row.shift(labels), row.shift(loss_mask)
        logits, _ = output_layer(
            hidden, weight=output_weight, runtime_gather_output=runtime_gather_output
        )
        if scale_logits_fn is not None:
            logits = scale_logits_fn(logits)
        accepted: dict[str, Tensor] = {}
        if count_accepted is not None:  # before the loss, which may overwrite logits
            correct, total = count_accepted(
                logits, labels, loss_mask, output_layer, runtime_gather_output, tp_group
            )
            accepted[f"mtp_{depth}_acceptance_rate"] = ratio(100 * correct, total)
        weighted = loss_mask * compute_language_model_loss(labels, logits)
        row.figures[f"mtp_{depth} loss"] = ratio(weighted.detach().sum(), row.denominator)
        row.figures.update(accepted)
        factor = config.mtp_loss_scaling_factor / config.mtp_num_layers
        main = MTPLossAutoScaler.apply(main, factor * weighted)
    return main
