# SPDX-License-Identifier: Apache-2.0
"""The stand-ins for Transformer Engine's kernels, against torch."""

from __future__ import annotations

import pytest
import torch

from tests.hybrid.kernels import folders
from tests.pinned import NotInstalledError
from tests.te.fake import context_parallel_kernels as shared
from tests.te.fake.attention_kernel import fused_attn_bwd, fused_attn_fwd
from tests.te.fake.binding import make_binding
from tests.te.wheels import RELEASES, wheel_folder


def attention_of(q, k, v, offsets, window, sink):
    """Attention as one formula over the whole row, for autograd."""
    count, copies = len(q), q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(copies, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    distance = torch.arange(count)[:, None] - torch.arange(count)[None]
    document = torch.bucketize(torch.arange(count), offsets[1:-1], right=True)
    seen = (distance >= 0) & (document[:, None] == document[None])
    if window[0] >= 0:
        seen &= distance <= window[0]
    scores = scores.masked_fill(~seen, float("-inf"))
    if sink is not None:
        scores = torch.cat([scores, sink.view(-1, 1, 1).expand(-1, count, 1)], -1)
    weights = scores.softmax(-1)[..., :count]
    return torch.einsum("hqk,khd->qhd", weights, v)


@pytest.mark.parametrize("has_sink", [False, True])
@pytest.mark.parametrize("window", [(-1, 0), (3, 0)])
def test_attention_and_its_gradients_are_those_of_autograd(window, has_sink):
    generator = torch.Generator().manual_seed(0)
    q, k, v, d_out = (torch.randn(20, h, 8, generator=generator) for h in (4, 2, 2, 4))
    sink = torch.randn(1, 4, 1, 1, generator=generator) if has_sink else None
    inputs = [x.requires_grad_() for x in (q, k, v, *([sink] if has_sink else []))]
    offsets = torch.tensor([0, 7, 8, 20, 20], dtype=torch.int32)
    expected = attention_of(q, k, v, offsets, window, sink)
    expected_gradients = torch.autograd.grad(expected, inputs, d_out)
    given = {
        **dict(zip("qkv", (x.detach() for x in (q, k, v)), strict=True)),
        **{f"cu_seqlens_{side}": offsets for side in ("q", "kv")},
        **{f"cu_seqlens_{side}_padded": None for side in ("q", "kv")},
        **{f"max_seqlen_{side}": 12 for side in ("q", "kv")},
        "qkv_layout": "thd_thd_thd",
        "attn_mask_type": "padding_causal",
        "attn_scale": None,
        "window_size": window,
        "softmax_type": "learnable" if has_sink else "vanilla",
        "softmax_offset": sink.detach() if has_sink else None,
    }
    out, kept = fused_attn_fwd(given)
    torch.testing.assert_close(out, expected)
    found = fused_attn_bwd(given | {"o": out, "d_o": d_out, "aux_ctx_tensors": kept})
    found = [gradient for gradient in found if gradient is not None]
    torch.testing.assert_close(found, list(expected_gradients))
    with pytest.raises(RuntimeError, match="the mask is causal, which ignores cu_seqlens"):
        fused_attn_fwd(given | {"attn_mask_type": "causal"})
    with pytest.raises(RuntimeError, match=r"cu_seqlens_q is torch\.int64, not int32"):
        fused_attn_fwd(given | {"cu_seqlens_q": offsets.long()})


def test_rank_order_and_row_order_are_inverse():
    offsets = torch.tensor([0, 8, 24, 24])
    row = torch.arange(24)
    by_rank = shared.thd_sequence_order_to_cp_rank_order(row, offsets, 2, 24)
    assert by_rank.tolist()[:12] == [0, 1, 6, 7, 8, 9, 10, 11, 20, 21, 22, 23]
    assert shared.thd_cp_rank_order_to_sequence_order(by_rank, offsets, 2, 24).equal(row)


@pytest.mark.parametrize("release", RELEASES)
def test_a_kernel_without_a_stand_in_is_named_when_it_is_called(release):
    binding = make_binding(tuple(map(int, release.split(".")[:2])))
    with pytest.raises(NotImplementedError, match="copy_to_kv_cache"):
        binding.copy_to_kv_cache()


def test_a_package_that_cannot_be_had_gives_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("MEGATRON_PACKING_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for folder in (lambda: wheel_folder(RELEASES[0]), folders):
        with pytest.raises(NotInstalledError, match=r"^the tests need .* 2\.\d.*, but pip cannot"):
            folder()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
