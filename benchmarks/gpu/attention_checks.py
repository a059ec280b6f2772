# SPDX-License-Identifier: Apache-2.0
"""Checks attention over packed rows and its context-parallel partition.

Each check compares with something that knows nothing of packing: float64 on the CPU, or Transformer
Engine's own partition.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from ground import Ground, make_dataset, packs_of_several, relative_error

from megatron_packing.thd.attention import packed_attention, varlen_attention
from megatron_packing.thd.context_parallel import partition_indices


def check_attention(ground: Ground) -> None:
    """Forward and backward of packed attention against each document alone in float64."""
    row = ground.check_row
    dataset = make_dataset(ground.corpora[0][1], row, "optimal")
    result: dict[str, Any] = {"row": row, "cudnn": cudnn_of_attention(ground), "kernels": {}}
    scale = (ground.shape.hidden_size // ground.shape.num_heads) ** -0.5
    for pack in packs_of_several(dataset, 3):
        sample = dataset[pack]
        cu_seqlens, longest = sample["cu_seqlens"], int(sample["max_seqlen"])
        tensors = random_qkv(ground, row)
        segments = [(a, b) for a, b in pairwise(cu_seqlens.tolist()) if b > a]
        exact = [alone_in_float64([t[a:b] for t in tensors], scale) for a, b in segments]
        ways = (("fused", fused_attention(ground)), ("torch", torch_attention(ground)))
        for name, attend in ways:
            leaves = [tensor.clone().cuda().requires_grad_() for tensor in tensors[:3]]
            output = attend(*leaves, cu_seqlens.cuda(), longest)
            output.backward(tensors[3].cuda())
            found = [output, *(leaf.grad for leaf in leaves)]
            errors = errors_of_parts(found, exact, segments)
            here = result["kernels"].setdefault(name, {"documents": 0, "largest_error": 0.0})
            here["documents"] += len(segments)
            here["largest_error"] = max(here["largest_error"], *errors.values())
    result["limit"] = 1e-2
    result["ok"] = all(k["largest_error"] < result["limit"] for k in result["kernels"].values())
    ground.save("attention", result)


def check_partition(ground: Ground) -> None:
    """Transformer Engine's own partition of rows for context parallelism against ours."""
    if ground.dry:

        def theirs(offsets: Any, _: int, size: int, rank: int) -> Any:
            held = []
            for a, b in pairwise(offsets.tolist()):
                chunks = np.array_split(np.arange(a, b), 2 * size) if b > a else []
                held += [*chunks[rank : rank + 1], *chunks[2 * size - 1 - rank : 2 * size - rank]]
            return torch.from_numpy(np.concatenate(held))

    else:
        import transformer_engine_torch as tex

        theirs = tex.thd_get_partitioned_indices
    compared, different = 0, 0
    for size in (2, 4, 8):
        dataset = make_dataset(ground.corpora[0][1], ground.rows[0], "optimal", alignment=2 * size)
        for pack in range(20):
            offsets = dataset[pack]["cu_seqlens"].cuda()
            for rank in range(size):
                ours = partition_indices(offsets, size, rank)
                expected = theirs(offsets, ground.rows[0], size, rank)
                compared += 1
                different += not torch.equal(ours.long(), expected.to(ours.device).long())
    ground.save("partition", {"compared": compared, "different": different, "ok": not different})


def cudnn_of_attention(ground: Ground) -> str | None:
    """The cuDNN that Transformer Engine found, which may be another one than torch's package."""
    if ground.dry:
        return None
    from transformer_engine.pytorch.utils import get_cudnn_version

    return ".".join(map(str, get_cudnn_version()))


def fused_attention(ground: Ground) -> Any:
    """Transformer Engine's attention as Megatron calls it; the reference in a dry run."""
    shape = ground.shape
    dim = shape.hidden_size // shape.num_heads
    if ground.dry:
        return lambda q, k, v, offsets, _: packed_attention(q, k, v, offsets, dim**-0.5)
    from transformer_engine.pytorch import DotProductAttention

    attention = DotProductAttention(
        shape.num_heads,
        dim,
        num_gqa_groups=shape.num_query_groups,
        attention_dropout=0.0,
        qkv_format="thd",
        attn_mask_type="padding_causal",
    )

    def attend(q: Any, k: Any, v: Any, offsets: Any, longest: int) -> Any:
        output = attention(
            q,
            k,
            v,
            cu_seqlens_q=offsets,
            cu_seqlens_kv=offsets,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
            pad_between_seqs=False,
        )
        return output.view(q.shape)

    return attend


def torch_attention(ground: Ground) -> Any:
    """Call torch's variable-length attention, for machines without Transformer Engine."""
    scale = (ground.shape.hidden_size // ground.shape.num_heads) ** -0.5
    if ground.dry:
        return lambda q, k, v, offsets, _: packed_attention(q, k, v, offsets, scale)
    return lambda q, k, v, offsets, longest: varlen_attention(
        q, k, v, offsets, scale, max_seqlen=longest
    )


def random_qkv(ground: Ground, positions: int) -> list[torch.Tensor]:
    """Queries, keys and values of a row, and a gradient of the output."""
    shape, generator = ground.shape, torch.Generator().manual_seed(positions)
    dim = shape.hidden_size // shape.num_heads
    heads = (shape.num_heads, shape.num_query_groups, shape.num_query_groups, shape.num_heads)
    tensors = [torch.randn(positions, count, dim, generator=generator) for count in heads]
    return [tensor.to(ground.dtype) for tensor in tensors]


def alone_in_float64(
    tensors: list[torch.Tensor], scale: float, *, window: int = -1, sink: bool = False
) -> list[torch.Tensor]:
    """Causal attention of one document written out: its output and three gradients.

    Args:
        tensors: Queries, keys, values and the gradient of the output.
        scale: Of the scores.
        window: Positions to the left that are seen beside the own one; -1 for all.
        sink: Whether the softmax has one more score, of 0, that no value belongs to.
    """
    query, key, value = (tensor.double().requires_grad_() for tensor in tensors[:3])
    groups = query.shape[1] // key.shape[1]
    scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(groups, 1)) * scale
    future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    if window >= 0:
        future |= torch.ones_like(future).tril(-window - 1)
    scores = scores.masked_fill(future, -math.inf)
    if sink:
        scores = torch.cat([scores, torch.zeros_like(scores[..., :1])], -1)
    weights = scores.softmax(-1)[..., : len(key)]
    output = torch.einsum("hqk,khd->qhd", weights, value.repeat_interleave(groups, 1))
    output.backward(tensors[3].double())
    return [output.detach(), query.grad, key.grad, value.grad]


def errors_of_parts(
    found: list[torch.Tensor],
    exact: list[list[torch.Tensor]],
    segments: list[tuple[int, int]],
) -> dict[str, float]:
    """The largest relative error of any document, of the output and of each gradient.

    Args:
        found: Of a row.
        exact: Of each of its documents, as ``alone_in_float64`` gives it.
        segments: Where they stand in the row.
    """
    parts = ("output", "query", "key", "value")
    return {
        part: max(
            relative_error(found[i][a:b], document[i])
            for (a, b), document in zip(segments, exact, strict=True)
        )
        for i, part in enumerate(parts)
    }
