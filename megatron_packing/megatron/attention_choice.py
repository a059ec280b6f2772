# SPDX-License-Identifier: Apache-2.0
"""Refuses, before the first step, attention for which Transformer Engine has no fused kernel.

Without one it falls back to a kernel that stores all scores, or raises an error in the first step.
The choice depends on the GPU, on cuDNN, on flash-attn and on the model, so Transformer Engine must
say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from megatron.core.transformer.utils import is_layer_window_attention

from megatron_packing.errors import InputError
from megatron_packing.megatron.attention_limits import transformer_engine_version
from megatron_packing.megatron.attention_question import (
    Attention,
    ask_transformer_engine,
    has_flash_attention,
)
from megatron_packing.megatron.head_sizes import check_channels
from megatron_packing.megatron.layer_pattern import attention_layers
from megatron_packing.thd.row_shape import RowShape


def check_attention(
    settings: Any,
    name_of: Callable[[str], str],
    *,
    positions: int,
    shape: RowShape,
    allow_unfused: tuple[str, bool],
) -> list[str]:
    """Refuse a run whose attention Transformer Engine has no fused kernel for.

    Call it on a rank that has set its CUDA device. Does nothing where there is no CUDA, where
    Transformer Engine is not installed, or where it does not compute attention.

    Args:
        settings: Megatron's arguments, a ``TransformerConfig``, or a model provider of
            Megatron-Bridge.
        name_of: Returns how users write a setting, such as ``--window-size``.
        positions: Positions of a row.
        shape: The shape of all rows of the run.
        allow_unfused: How users allow attention without a fused kernel, and whether they did.

    Returns:
        One sentence for each kind of layer: what computes its attention.

    Raises:
        InputError: There is no kernel; or no fused one, and that is not allowed; or the kernel is
            known to be wrong.
    """
    implementation = getattr(settings, "transformer_impl", "transformer_engine")
    release = transformer_engine_version()
    if implementation != "transformer_engine" or release is None or not torch.cuda.is_available():
        return []
    flag, is_allowed = allow_unfused
    lines = []
    for layers, attention in attentions_of(settings, positions, shape).items():
        choice = ask_transformer_engine(attention)
        if choice.kind == "none" or (choice.kind == "unfused" and not is_allowed):
            what = (
                "has no kernel"
                if choice.kind == "none"
                else f"has no fused kernel (it would store scores of up to "
                f"{attention.gigabytes_unfused:,.0f} GB a layer)"
            )
            cures = list(_cures(attention, name_of))
            if choice.kind == "unfused":
                cures.append(f"insist with {flag}")
            reasons = [*choice.reasons]
            if not has_flash_attention():
                reasons.append("flash-attn 2 is not installed")
            raise InputError(
                f"Transformer Engine {release[0]}.{release[1]} {what} for the attention of "
                f"{layers} over packed rows on this GPU, because: {'; '.join(reasons)}. "
                f"To train, {', or '.join(cures) or 'use another GPU'}"
            )
        lines.append(f"attention of {layers} over packed rows: Transformer Engine, {choice.kind}")
        if choice.kind == "cuDNN" and (warning := check_channels(attention.channels, name_of)):
            lines.append(warning)
    return lines


def attentions_of(settings: Any, positions: int, shape: RowShape) -> dict[str, Attention]:
    """Return the attention of each kind of layer, by a name for these layers."""
    read = _reader(settings)
    heads = read("num_attention_heads")
    groups = read("num_query_groups") if read("group_query_attention", True) else None
    tensor_ranks = read("tensor_model_parallel_size", 1)
    channels = read("kv_channels") or read("hidden_size") // heads
    kinds = read("cp_comm_type") or "p2p"
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    levels = read("hierarchical_context_parallel_sizes") or [1]
    backend = read("attention_backend", "auto")
    dtype = read("params_dtype", torch.bfloat16)
    if read("bf16") or read("fp16"):  # params_dtype may not be set yet
        dtype = torch.bfloat16 if read("bf16") else torch.float16
    whole = Attention(
        heads=heads // tensor_ranks,
        groups=max(1, (groups or heads) // tensor_ranks),
        channels=(channels, channels),
        dtype=dtype,
        positions=positions,
        width=shape.width,
        max_seqlen=shape.max_seqlen,
        softmax=read("softmax_type") or "vanilla",
        dropout=read("attention_dropout") or 0.0,
        ranks=read("context_parallel_size") or 1,
        ranks_of_a2a=levels[0],
        is_deterministic=bool(read("deterministic_mode"))
        or torch.are_deterministic_algorithms_enabled()
        or os.environ.get("NVTE_ALLOW_NONDETERMINISTIC_ALGO") == "0",
        returns_max_logit=bool(read("qk_clip") or read("log_max_attention_logit")),
        backend=getattr(backend, "name", str(backend)),
    )
    if read("multi_latent_attention"):
        query = read("qk_head_dim") + read("qk_pos_emb_head_dim")
        latent = (query, read("v_head_dim"))
        whole = replace(whole, groups=whole.heads, channels=latent)
    window = read("window_size")
    window = (window, 0) if isinstance(window, int) else window and tuple(window)
    has_window = bool(window) and window[0] >= 0
    found: dict[tuple[bool, str], Attention] = {}
    for number in attention_layers(settings):
        is_local = has_window and is_layer_window_attention(
            window, read("window_attn_skip_freq"), number
        )
        kind = kinds[number - 1] if len(kinds) >= number else kinds[0]
        found[is_local, kind] = replace(
            whole, window=window if is_local else (-1, 0), communication=kind
        )
    return {_name_of(*layers, among=found): attention for layers, attention in found.items()}


def _name_of(is_local: bool, kind: str, among: dict[tuple[bool, str], Attention]) -> str:
    parts = []
    if len({local for local, _ in among}) > 1:
        parts.append("with a window" if is_local else "without a window")
    if len({communication for _, communication in among}) > 1:
        parts.append(f"with {kind}")
    return " ".join(["layers", *parts]) if parts else "all layers"


def _cures(attention: Attention, name_of: Callable[[str], str]) -> Iterator[str]:
    """Yield changes with which Transformer Engine does have a fused kernel."""
    changes: list[tuple[bool, dict[str, Any], str]] = [
        (
            attention.backend not in ("auto", "fused"),
            {"backend": "auto"},
            f"leave {name_of('attention_backend')} out",
        ),
        (
            attention.dtype == torch.float32,
            {"dtype": torch.bfloat16},
            f"use bfloat16 ({name_of('bf16')})",
        ),
        (
            attention.ranks > 1 and attention.communication != "a2a",
            {"communication": "a2a"},
            f"set {name_of('cp_comm_type')} to a2a",
        ),
        (
            attention.is_deterministic,
            {"is_deterministic": False},
            f"leave {name_of('deterministic_mode')} out",
        ),
        (
            attention.returns_max_logit,
            {"returns_max_logit": False},
            f"leave {name_of('qk_clip')} and {name_of('log_max_attention_logit')} out",
        ),
        (attention.dropout > 0, {"dropout": 0.0}, f"set {name_of('attention_dropout')} to 0"),
        (
            attention.softmax != "vanilla",
            {"softmax": "vanilla"},
            f"leave {name_of('softmax_type')} out",
        ),
        (attention.window[0] >= 0, {"window": (-1, 0)}, f"leave {name_of('window_size')} out"),
    ]
    for applies, change, sentence in changes:
        if applies and ask_transformer_engine(replace(attention, **change)).kind in (
            "flash-attn",
            "cuDNN",
        ):
            yield sentence
    can_flash = attention.softmax == "vanilla" and not attention.returns_max_logit
    if can_flash and attention.dtype != torch.float32 and not has_flash_attention():
        yield "install flash-attn 2"


def _reader(settings: Any) -> Callable[..., Any]:
    return lambda name, default=None: getattr(settings, name, default)
