# SPDX-License-Identifier: Apache-2.0
"""What an even order of packs is made for in a Bridge run."""

from __future__ import annotations

from typing import Any

from megatron_packing.bridge.splits import Split
from megatron_packing.errors import InputError
from megatron_packing.flops.model import ModelShape, WorkModel
from megatron_packing.megatron.layer_pattern import counted_symbols, layer_pattern
from megatron_packing.stream.even_order import FEWEST_MICRO_BATCHES, EvenSettings


def check_even_order(cfg: Any, train: Split) -> None:
    """Refuse an even order of packs that cannot be made.

    Args:
        cfg: Bridge's ``ConfigContainer``, after it was validated.
        train: The training documents.

    Raises:
        InputError: There are several indexes, or a rank has a single micro-batch in a step.
    """
    if len(train.parts) > 1:
        raise InputError(
            f'train has {len(train.parts)} pack indexes, but order="even" orders the packs of one; '
            f"pack their corpora together (megatron-packing pack A,B:2), or give "
            f'order="random"'
        )
    ranks, batch = int(cfg.data_parallel_size), int(cfg.train.global_batch_size)
    if batch // ranks < FEWEST_MICRO_BATCHES:
        raise InputError(
            f"cfg.train.global_batch_size is {batch}, so each of the {ranks} data-parallel ranks "
            f'has one row in a step, but order="even" needs at least two: the batches would be '
            f'sorted by length; give a larger batch or order="random"'
        )


def even_settings_of(cfg: Any) -> EvenSettings:
    """Return the settings of the even order for a run that begins.

    Args:
        cfg: Bridge's ``ConfigContainer``, after it was validated.
    """
    return EvenSettings.of(
        work_model_of(cfg.model),
        ranks=int(cfg.data_parallel_size),
        batch=int(cfg.train.global_batch_size),
    )


def work_model_of(model: Any) -> WorkModel:
    """Return the work of rows in the model of a recipe; experts count as MLPs.

    Args:
        model: ``cfg.model``, after it was validated.
    """
    pattern = counted_symbols(layer_pattern(model) or "")
    heads = model.num_attention_heads
    names = ("mamba_state_dim", "mamba_head_dim", "mamba_num_groups", "mamba_num_heads")
    found = {name: getattr(model, name, None) for name in names if pattern}
    mamba = {name: value for name, value in found.items() if value is not None}
    return ModelShape(
        name="the trained model",
        num_layers=len(pattern) or model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_heads=heads,
        num_query_groups=model.num_query_groups or heads,
        kv_channels=model.kv_channels or model.hidden_size // heads,
        gated_mlp=model.gated_linear_unit,
        hybrid_layer_pattern=pattern,
        **mamba,
    ).work_model()
