# SPDX-License-Identifier: Apache-2.0
"""The stand-in for the kernels of causal_conv1d, against torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.hybrid.fake import causal_conv1d

LENGTHS = (5, 1, 9, 2)
SEQ_IDX = torch.arange(len(LENGTHS), dtype=torch.int32).repeat_interleave(torch.tensor(LENGTHS))


def convolution_of_each(x, weight, bias):
    """Torch's convolution of each segment alone, as deep as there are channels."""
    width = weight.shape[1]
    return torch.cat(
        [
            functional.conv1d(
                functional.pad(part, (width - 1, 0)), weight[:, None], bias, groups=len(weight)
            )
            for part in x.split(LENGTHS, 2)
        ],
        2,
    )


def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 6, sum(LENGTHS)), (6, 4), (6,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("silu", [False, True])
def test_segments_are_convolved_alone(silu):
    x, weight, bias = (tensor.requires_grad_() for tensor in tensors())
    expected = convolution_of_each(x, weight, bias)
    expected = functional.silu(expected) if silu else expected
    found = causal_conv1d.forward(x, weight, bias, SEQ_IDX[None], None, None, silu)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    into = torch.empty_like(x)
    dx, dweight, dbias, _ = causal_conv1d.backward(
        x, weight, bias, gradient, SEQ_IDX[None], None, None, into, False, silu
    )
    assert dx is into
    for ours, theirs in zip(
        (dx, dweight, dbias),
        torch.autograd.grad(expected, (x, weight, bias), gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_without_seq_idx_the_row_is_one_segment():
    x, weight, bias = tensors()
    found = causal_conv1d.convolve(x, weight, bias, None, silu=False)
    assert torch.allclose(found[..., : LENGTHS[0]], convolution_of_each(x, weight, bias)[..., :5])
    assert not torch.allclose(found, convolution_of_each(x, weight, bias))


@pytest.mark.parametrize("seq_idx", [SEQ_IDX[None].long(), SEQ_IDX[None, :-1]])
def test_what_the_kernel_would_misread_is_an_error(seq_idx):
    x, weight, bias = tensors()
    with pytest.raises(RuntimeError, match="but the kernel reads int32"):
        causal_conv1d.convolve(x, weight, bias, seq_idx, silu=False)
