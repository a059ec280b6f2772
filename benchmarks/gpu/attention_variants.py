# SPDX-License-Identifier: Apache-2.0
"""Checks attention of other kinds over packed rows: refused by this project, or right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from attention_checks import alone_in_float64, errors_of_parts
from ground import Ground, make_dataset, packs_of_several, start_megatron

LIMIT = 1e-2


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of attention."""

    heads: int = 32
    groups: int = 8
    dim: int = 128
    value_dim: int = 128
    window: int = -1
    softmax: str = "vanilla"
    may_be_refused: bool = False
    """Whether this project may refuse it: where cuDNN is wrong or has no kernel."""
    has_empty_segments: bool = True
    """Whether ``cu_seqlens`` ends in repeated offsets, as rows of a run do."""


VARIANTS = {
    "64 heads of 64": Variant(64, 64, 64, 64),
    "heads of 256": Variant(8, 2, 256, 256, may_be_refused=True),
    "heads of 256, no empty segments": Variant(
        8, 2, 256, 256, may_be_refused=True, has_empty_segments=False
    ),
    "keys of 192, values of 128": Variant(16, 16, 192),
    "window of 128": Variant(window=127),
    "sink, off by one": Variant(softmax="off-by-one", may_be_refused=True),
    "sink, learnable": Variant(softmax="learnable", may_be_refused=True),
}


def check_variants(ground: Ground) -> None:
    """Transformer Engine's attention of other kinds over packed rows, beside the model's own.

    A kind is all right if it is exact, or if it may be refused and a run with it is.
    """
    if ground.dry:
        ground.save("variants", {"ok": True, "skipped": "without Transformer Engine"})
        return
    start_megatron(ground)
    dataset = make_dataset(ground.corpora[0][1], ground.check_row, "optimal")
    sample = dataset[packs_of_several(dataset, 1)[0]]
    result: dict[str, Any] = {"row": ground.check_row, "kernels": {}, "limit": LIMIT}
    for name, variant in VARIANTS.items():
        found: dict[str, Any] = {}
        try:
            if refused := refusal(variant, sample, ground):
                found["refused"] = refused
            if not (refused and "would store scores" in refused):  # which may not fit
                found |= errors(variant, sample, ground)
        except Exception as error:  # each kind has its own; the others go on
            found["error"] = f"{type(error).__name__}: {error}"[:300]
        result["kernels"][name] = found
        ground.save("variants", result)
    result["ok"] = all(
        found.get("largest_error", math.inf) < LIMIT
        or ("refused" in found and VARIANTS[name].may_be_refused)
        for name, found in result["kernels"].items()
    )
    ground.save("variants", result)


def refusal(variant: Variant, sample: dict[str, Any], ground: Ground) -> str | None:
    """The sentence that stops a run with this kind of attention; None if it may run.

    Latent attention, whose values are narrower than its keys, is not asked about.
    """
    if variant.dim != variant.value_dim:
        return None
    from megatron.core.transformer import TransformerConfig

    from megatron_packing.errors import InputError
    from megatron_packing.megatron.attention_choice import check_attention
    from megatron_packing.megatron.layer_spec import packed_layer_spec
    from megatron_packing.thd.row_shape import RowShape

    config = TransformerConfig(
        num_layers=1,
        hidden_size=variant.heads * variant.dim,
        num_attention_heads=variant.heads,
        num_query_groups=variant.groups,
        kv_channels=variant.dim,
        attention_dropout=0.0,
        window_size=None if variant.window < 0 else (variant.window, 0),
        softmax_type=variant.softmax,
        bf16=True,
        params_dtype=torch.bfloat16,
    )
    shape = RowShape(width=len(sample["cu_seqlens"]), max_seqlen=int(sample["max_seqlen"]))
    try:
        packed_layer_spec(config)
        check_attention(
            config,
            str,
            positions=ground.check_row,
            shape=shape,
            allow_unfused=("--packing-allow-unfused-attention", False),
        )
    except InputError as error:
        return str(error)
    return None


def errors(variant: Variant, sample: dict[str, Any], ground: Ground) -> dict[str, Any]:
    """Relative errors of the output and of each gradient against documents alone in float64."""
    from transformer_engine.pytorch import DotProductAttention

    cu_seqlens, longest = sample["cu_seqlens"], int(sample["max_seqlen"])
    if not variant.has_empty_segments:
        cu_seqlens = cu_seqlens.unique()
    dims = (variant.dim, variant.dim, variant.value_dim, variant.value_dim)
    heads = (variant.heads, variant.groups, variant.groups, variant.heads)
    generator = torch.Generator().manual_seed(1)
    tensors = [
        torch.randn(ground.check_row, count, dim, generator=generator).to(ground.dtype)
        for count, dim in zip(heads, dims, strict=True)
    ]
    attention = DotProductAttention(
        variant.heads,
        dims[1] if dims[1] == dims[2] else (dims[1], dims[2]),
        num_gqa_groups=variant.groups,
        attention_dropout=0.0,
        qkv_format="thd",
        attn_mask_type="padding_causal",
        window_size=(variant.window, 0),
        softmax_type=variant.softmax,
    ).cuda()
    leaves = [tensor.clone().cuda().requires_grad_() for tensor in tensors[:3]]
    offsets = {f"cu_seqlens_{x}": cu_seqlens.cuda() for x in ("q", "kv")}
    lengths = {f"max_seqlen_{x}": longest for x in ("q", "kv")}
    output = attention(*leaves, **offsets, **lengths, pad_between_seqs=False)
    output = output.view(ground.check_row, variant.heads, variant.value_dim)
    output.backward(tensors[3].cuda())
    segments = [(a, b) for a, b in pairwise(cu_seqlens.tolist()) if b > a]
    exact = [
        alone_in_float64(
            [tensor[a:b] for tensor in tensors],
            variant.dim**-0.5,
            window=variant.window,
            sink=variant.softmax != "vanilla",
        )
        for a, b in segments
    ]
    parts = errors_of_parts([output, *(leaf.grad for leaf in leaves)], exact, segments)
    return {"documents": len(segments), "largest_error": max(parts.values()), "errors": parts}
