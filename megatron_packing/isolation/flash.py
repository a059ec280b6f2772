# SPDX-License-Identifier: Apache-2.0
"""Stands in for flash attention's kernels on a CPU.

transformers' own code decides, from what each layer hands on, between ``flash_attn_func`` over the
whole row and ``flash_attn_varlen_func`` over documents. Only these two are replaced, by torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor

from megatron_packing.errors import InputError


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Have transformers build models with flash attention, and call this module for it.

    Raises:
        InputError: This release of transformers loads flash attention in another way.
    """
    from transformers import PreTrainedModel, modeling_flash_attention_utils, modeling_utils
    from transformers.integrations import flash_attention

    utilities: Any = modeling_flash_attention_utils
    load = "lazy_import_flash_attention"
    with contextlib.ExitStack() as stack:
        try:
            process = utilities._lazy_define_process_function(attend_varlen)
            functions = (attend, attend_varlen, None, utilities._pad_input, utilities._unpad_input)
            for owner, name, value in (
                (utilities, load, lambda *_, **__: (functions, (process, dict))),
                (modeling_utils, load, lambda *_, **__: None),
                (PreTrainedModel, "_flash_attn_can_dispatch", _can_dispatch),
                (flash_attention, "get_target_dtype", lambda *_, **__: None),  # float32 stays so
            ):
                own = getattr(owner, name)
                setattr(owner, name, value)
                stack.callback(setattr, owner, name, own)
        except AttributeError as error:
            raise InputError(
                f"this release of transformers loads flash attention in a way that is not known "
                f"here ({error}); leave flash out of --attention, or use transformers 5"
            ) from error
        yield


def _can_dispatch(model: Any, *_args: Any, **_kwargs: Any) -> bool:
    """Say whether a model has flash attention, whatever is installed."""
    if not model._supports_flash_attn:
        raise ValueError(f"{type(model).__name__} does not support flash attention")
    return True


def attend(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """Compute attention over whole rows: ``(rows, positions, heads, size)``."""
    rows = [_attend(*one, **settings) for one in zip(q, k, v, strict=True)]
    return torch.stack(rows)


def attend_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    s_aux: Tensor | None = None,
) -> Tensor:
    """Compute attention within documents: ``(positions, heads, size)``."""
    del max_seqlen_q, max_seqlen_k, dropout_p  # for kernels; rows are checked without dropout
    of_queries, of_keys = (pairwise(ends.tolist()) for ends in (cu_seqlens_q, cu_seqlens_k))
    return torch.cat(
        [
            _attend(
                q[slice(*at)],
                k[slice(*seen)],
                v[slice(*seen)],
                softmax_scale=softmax_scale,
                causal=causal,
                window_size=window_size,
                softcap=softcap,
                s_aux=s_aux,
            )
            for at, seen in zip(of_queries, of_keys, strict=True)
        ]
    )


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    s_aux: Tensor | None = None,
    **_others: Any,
) -> Tensor:
    """Compute attention of one document: ``(positions, heads, size)``."""
    groups = q.shape[1] // k.shape[1]
    k, v = (one.repeat_interleave(groups, dim=1) for one in (k, v))
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    behind = torch.arange(len(q))[:, None] - torch.arange(len(k)) + len(k) - len(q)
    hidden = behind < 0 if causal else torch.zeros_like(behind, dtype=torch.bool)
    before, after = window_size
    hidden |= (behind > before) & (before >= 0)
    hidden |= (behind < -after) & (after >= 0)
    scores = scores.masked_fill(hidden.to(scores.device), -torch.inf)
    if s_aux is not None:
        sinks = s_aux[:, None, None].expand(-1, len(q), 1)
        weights = torch.cat([scores, sinks], dim=2).softmax(dim=2)[..., :-1]
    else:
        weights = scores.softmax(dim=2)
    return torch.einsum("hqk,khd->qhd", weights, v)
