# SPDX-License-Identifier: Apache-2.0
"""A reference for the fused attention kernel, which first checks what the real one relies on.

cuDNN reads ``cu_seqlens`` on the GPU and checks nothing: it would read past the end, or leave
output unwritten. Arguments are bound to the names in Transformer Engine's own wrapper, so their
order may differ between releases.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tests.te.fake.calls import CALLS

_RECORDED = ("attn_mask_type", "qkv_layout", "window_size", "softmax_type")


def by_name(original: Callable[..., Any], kernel: Callable[[dict[str, Any]], Any]) -> Callable:
    """Return a function with the signature of ``original`` that calls ``kernel`` with a dict."""
    signature = inspect.signature(original)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return kernel(dict(bound.arguments))

    return call


def _check(given: dict[str, Any]) -> None:
    problems = []
    if "thd" not in given["qkv_layout"]:
        problems.append(f"the layout is {given['qkv_layout']}, not thd")
    if "padding" not in given["attn_mask_type"]:
        problems.append(f"the mask is {given['attn_mask_type']}, which ignores cu_seqlens")
    for side, tensor in (("q", given["q"]), ("kv", given["k"])):
        offsets, longest = given[f"cu_seqlens_{side}"], given[f"max_seqlen_{side}"]
        if offsets.dtype != torch.int32:
            problems.append(f"cu_seqlens_{side} is {offsets.dtype}, not int32")
        if type(longest) is not int:
            problems.append(f"max_seqlen_{side} is a {type(longest).__name__}")
        lengths = torch.diff(offsets)
        if int(lengths.min()) < 0:
            problems.append(f"cu_seqlens_{side} decreases")
        if int(lengths.max()) > int(longest):
            problems.append(f"a segment has {int(lengths.max())} > max_seqlen_{side} {longest}")
        padded = given[f"cu_seqlens_{side}_padded"]
        end = int((offsets if padded is None else padded)[-1])
        if end != len(tensor):
            problems.append(f"cu_seqlens_{side} covers {end} of {len(tensor)} positions")
    if problems:
        raise RuntimeError("fused attention: " + "; ".join(problems))


def _segments(given: dict[str, Any]) -> Iterator[tuple[slice, slice]]:
    """Yield the rows of queries and of keys of every segment that has both."""
    sides = []
    for side in ("q", "kv"):
        offsets, padded = given[f"cu_seqlens_{side}"], given[f"cu_seqlens_{side}_padded"]
        starts = (offsets if padded is None else padded)[:-1].tolist()
        lengths = torch.diff(offsets).tolist()
        sides.append([slice(a, a + n) for a, n in zip(starts, lengths, strict=True)])
    for queries, keys in zip(*sides, strict=True):
        if queries.stop > queries.start and keys.stop > keys.start:
            yield queries, keys


def _heads(tensor: Tensor, rows: slice, copies: int = 1) -> Tensor:
    """Return ``(heads, rows, channels)`` in float32, with each head repeated."""
    return tensor[rows].float().transpose(0, 1).repeat_interleave(copies, 0)


def _scores(given: dict[str, Any], queries: slice, keys: slice) -> Tensor:
    """Return ``(heads, queries, keys)``, masked."""
    q, k = given["q"], given["k"]
    copies = q.shape[1] // k.shape[1]
    scale = given["attn_scale"] or q.shape[-1] ** -0.5
    scores = _heads(q, queries) @ _heads(k, keys, copies).transpose(1, 2) * scale
    row = torch.arange(scores.shape[1])[:, None]
    column = torch.arange(scores.shape[2])[None]
    if given.get("bottom_right_diagonal") or "bottom_right" in given["attn_mask_type"]:
        row = row + scores.shape[2] - scores.shape[1]
    seen = torch.ones(scores.shape[1:], dtype=torch.bool)
    if "causal" in given["attn_mask_type"]:
        seen &= column <= row
    left, right = given["window_size"] or (-1, -1)
    if left >= 0:
        seen &= column >= row - left
    if right >= 0:
        seen &= column <= row + right
    return scores.masked_fill(~seen, float("-inf"))


def fused_attn_fwd(given: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Return the output, and what the backward pass needs: first the sums of exponentials."""
    _check(given)
    CALLS.append(
        {"kernel": "fused_attn_fwd"}
        | {name: given.get(name) for name in _RECORDED}
        | {f"max_seqlen_{side}": given[f"max_seqlen_{side}"] for side in ("q", "kv")}
        | {"width": len(given["cu_seqlens_q"])}
    )
    q, v = given["q"], given["v"]
    heads = q.shape[1]
    out = q.new_zeros(len(q), heads, v.shape[-1])
    sums = torch.full((len(q), heads, 1), float("-inf"))
    has_sink = given.get("softmax_type", "vanilla") != "vanilla"
    offset = given.get("softmax_offset")
    for queries, keys in _segments(given):
        scores = _scores(given, queries, keys)
        lse = torch.logsumexp(scores, -1)
        if has_sink:
            sink = torch.zeros(heads) if offset is None else offset.view(-1).float()
            lse = torch.logaddexp(lse, sink[:, None].expand_as(lse))
        weights = torch.nan_to_num(torch.exp(scores - lse[..., None]))
        values = _heads(v, keys, heads // v.shape[1])
        out[queries] = (weights @ values).transpose(0, 1).to(q.dtype)
        sums[queries] = lse.t()[..., None]
    return out, [sums, torch.zeros(2, dtype=torch.int64), *([] if offset is None else [offset])]


def fused_attn_bwd(given: dict[str, Any]) -> tuple[Tensor | None, ...]:
    """Return the gradients of q, k, v and of the bias; then that of the sink, if there is one.

    The sums of exponentials are those given, which under context parallelism are of all ranks.
    """
    _check(given)
    q, k, v = given["q"], given["k"], given["v"]
    sums, _, *offset = given["aux_ctx_tensors"]
    heads, groups = q.shape[1], k.shape[1]
    scale = given["attn_scale"] or q.shape[-1] ** -0.5
    dq, dk, dv = (torch.zeros(tensor.shape) for tensor in (q, k, v))
    sink_gradient = torch.zeros(1, heads, 1, 1)

    def of_groups(gradient: Tensor) -> Tensor:  # from (heads, rows, channels)
        shape = (groups, heads // groups, *gradient.shape[1:])
        return gradient.view(shape).sum(1).transpose(0, 1)

    for queries, keys in _segments(given):
        lse = sums[queries].squeeze(-1).float().t()
        weights = torch.nan_to_num(
            torch.exp(_scores(given, queries, keys) - lse[..., None]), posinf=0.0
        )
        d_out = _heads(given["d_o"], queries)
        total = (d_out * _heads(given["o"], queries)).sum(-1)
        d_weights = d_out @ _heads(v, keys, heads // groups).transpose(1, 2)
        d_scores = weights * (d_weights - total[..., None]) * scale
        dq[queries] = (d_scores @ _heads(k, keys, heads // groups)).transpose(0, 1)
        dk[keys] = of_groups(d_scores.transpose(1, 2) @ _heads(q, queries))
        dv[keys] = of_groups(weights.transpose(1, 2) @ d_out)
        for values in offset:
            share = torch.exp(values.view(heads, 1).float() - lse)
            sink_gradient -= (share * total).sum(-1).view(1, heads, 1, 1)
    has_sink = given.get("softmax_type", "vanilla") != "vanilla"
    gradients = [dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None]
    return (*gradients, *([sink_gradient] if has_sink else []))
