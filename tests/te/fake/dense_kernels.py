# SPDX-License-Identifier: Apache-2.0
"""What the dense kernels of Transformer Engine's binding compute, in plain torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tests.te.fake.calls import CALLS

_DTYPES = {"kFloat32": torch.float32, "kFloat16": torch.float16, "kBFloat16": torch.bfloat16}


def generic_gemm(
    a: Tensor,
    transpose_a: bool,
    b: Tensor,
    transpose_b: bool,
    out: Tensor | None,
    quantizer: Any,
    out_dtype: Any,
    bias: Tensor | None,
    bias_dtype: Any,
    gelu: bool,
    gelu_in: Any,
    grad: bool,
    workspace: Any,
    workspace_size: int,
    accumulate: bool,
    *_: Any,
    **__: Any,
) -> tuple[Tensor, Tensor | None, None, None]:
    """Multiply as cuBLAS does, whose matrices are column-major: ``b`` times ``a``.

    TN is the forward pass (activations times transposed weight), NN the gradient of activations,
    and NT the gradient of the weight (transposed output gradient times activations).
    """
    del quantizer, bias_dtype, gelu_in, workspace, workspace_size
    assert not gelu
    rows = b.reshape(-1, b.shape[-1])
    if transpose_b:
        product = rows.t() @ a.reshape(-1, a.shape[-1])
    else:
        product = rows @ (a.t() if transpose_a else a)
        product = product.view(*b.shape[:-1], product.shape[-1])  # there may be no rows
    bias_gradient = None
    if bias is not None and bias.numel():
        if grad:
            bias_gradient = rows.sum(0)
        else:
            product = product + bias
    product = product.to(b.dtype if out_dtype is None else _DTYPES[out_dtype.name])
    if out is None:
        return product, bias_gradient, None, None
    product = product.view_as(out)
    if accumulate:
        out.add_(product)
    else:
        out.copy_(product)
    return out, bias_gradient, None, None


def te_general_grouped_gemm(
    a: list[Tensor],
    transpose_a: bool,
    b: list[Tensor],
    transpose_b: bool,
    out: list[Tensor],
    out_dtype: Any,
    rows: list[int],
    bias: list[Tensor],
    bias_dtype: Any,
    is_one_output: bool,
    *_: Any,
) -> list[Tensor]:
    """Multiply each pair of matrices; the outputs may be parts of one tensor."""
    del out_dtype, bias_dtype
    outputs = out[0].split(list(rows)) if is_one_output else out
    for left, right, output in zip(a, b, outputs, strict=True):
        whole = left if not transpose_a else left.t()
        product = right.t() @ left if transpose_b else right @ whole
        output.copy_(product)
    return bias


def _weight(weight: Tensor, zero_centered: bool) -> Tensor:
    return weight.float() + 1 if zero_centered else weight.float()


def _into(out: Tensor | None, value: Tensor) -> Tensor:
    return value if out is None else out.copy_(value)


def rmsnorm_fwd(x, weight, eps, out, quantizer, dtype, sm_margin, zero_centered):
    """Return the normalized rows, None, and the reciprocal root of each row's mean square."""
    del quantizer, dtype, sm_margin
    factor = torch.rsqrt(x.float().square().mean(-1) + eps)
    y = x.float() * factor[:, None] * _weight(weight, zero_centered)
    return _into(out, y.to(x.dtype)), None, factor


def rmsnorm_bwd(dy, x, factor, weight, sm_margin, zero_centered):
    """Return the gradients of the rows and of the weight."""
    del sm_margin
    dy = dy.float().reshape(x.shape)
    normal = x.float() * factor[:, None]
    scaled = dy * _weight(weight, zero_centered)
    dx = factor[:, None] * (scaled - normal * (scaled * normal).mean(-1, keepdim=True))
    return dx.to(x.dtype), (dy * normal).sum(0).to(weight.dtype)


def layernorm_fwd(x, weight, bias, eps, out, quantizer, dtype, sm_margin, zero_centered):
    """Return the normalized rows, their means, and the reciprocal standard deviations."""
    del quantizer, dtype, sm_margin
    mean = x.float().mean(-1)
    factor = torch.rsqrt(x.float().var(-1, unbiased=False) + eps)
    y = (x.float() - mean[:, None]) * factor[:, None] * _weight(weight, zero_centered)
    y = y if bias is None else y + bias.float()
    return _into(out, y.to(x.dtype)), mean, factor


def layernorm_bwd(dy, x, mean, factor, weight, sm_margin, zero_centered):
    """Return the gradients of the rows, of the weight and of the bias."""
    del sm_margin
    dy = dy.float().reshape(x.shape)
    normal = (x.float() - mean[:, None]) * factor[:, None]
    scaled = dy * _weight(weight, zero_centered)
    projected = normal * (scaled * normal).mean(-1, keepdim=True)
    dx = factor[:, None] * (scaled - scaled.mean(-1, keepdim=True) - projected)
    return dx.to(x.dtype), (dy * normal).sum(0).to(weight.dtype), dy.sum(0).to(weight.dtype)


def _angles(x: Tensor, freqs: Tensor, cu_seqlens: Tensor, size: int, rank: int) -> Tensor:
    """Return the angles of each position: those of its number within its segment.

    Under context parallelism a rank holds chunks ``rank`` and ``2 * size - 1 - rank`` of every
    segment.
    """
    offsets = (cu_seqlens // size).tolist()
    numbers = []
    for held in (stop - start for start, stop in pairwise(offsets)):
        number = torch.arange(held)
        if size > 1:
            chunk = held // 2
            late = (2 * size - 1 - rank) * chunk + number - chunk
            number = torch.where(number < chunk, rank * chunk + number, late)
        numbers.append(number)
    number = torch.cat(numbers)
    assert len(number) == len(x), f"cu_seqlens covers {len(number)} of {len(x)} positions"
    assert int(number.max()) < len(freqs), "a segment is longer than the table of angles"
    return freqs[number].view(len(x), 1, -1)


def _rotate(x: Tensor, angles: Tensor, interleaved: bool) -> Tensor:
    width = angles.shape[-1]
    turned, rest = x[..., :width].float(), x[..., width:]
    if interleaved:
        across = torch.stack((-turned[..., 1::2], turned[..., ::2]), -1).flatten(-2)
    else:
        left, right = turned.chunk(2, -1)
        across = torch.cat((-right, left), -1)
    turned = turned * angles.cos() + across * angles.sin()
    return torch.cat((turned.to(x.dtype), rest), -1)


def fused_rope_forward(x, freqs, *settings):
    """Rotate a packed tensor; releases differ in what stands before the last five settings."""
    layout, interleaved, cu_seqlens, size, rank = settings[-5:]
    assert layout.name == "NVTE_THD", f"no stand-in for {layout.name}"
    CALLS.append({"kernel": "fused_rope"})
    return _rotate(x, _angles(x, freqs, cu_seqlens, size, rank), interleaved)


def fused_rope_backward(gradient, freqs, *settings):
    """Rotate a gradient back."""
    layout, interleaved, cu_seqlens, size, rank = settings[-5:]
    assert layout.name == "NVTE_THD", f"no stand-in for {layout.name}"
    return _rotate(gradient, -_angles(gradient, freqs, cu_seqlens, size, rank), interleaved)


KERNELS = (
    generic_gemm,
    te_general_grouped_gemm,
    rmsnorm_fwd,
    rmsnorm_bwd,
    layernorm_fwd,
    layernorm_bwd,
    fused_rope_forward,
    fused_rope_backward,
)
