# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import types
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from megatron_packing.thd.attention import (  # noqa: E402
    causal_attention,
    packed_attention,
    takes_scale_and_window,
    varlen_attention,
)
from megatron_packing.thd.context_parallel import partition_indices  # noqa: E402


def random_qkv(positions: int, heads: int = 4, groups: int = 2, dim: int = 8):
    generator = torch.Generator().manual_seed(0)

    def random(count: int):
        return torch.randn(positions, count, dim, generator=generator, dtype=torch.float64)

    return random(heads), random(groups), random(groups)


def written_out(query, key, value, scale):
    """Softmax attention of one segment, head by head, in float64."""
    output = torch.empty_like(query)
    positions, heads, _ = query.shape
    group_size = heads // key.shape[1]
    for head in range(heads):
        scores = query[:, head] @ key[:, head // group_size].T * scale
        future = torch.ones(positions, positions, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        output[:, head] = weights @ value[:, head // group_size]
    return output


@pytest.mark.parametrize("cu_seqlens", [[0, 20], [0, 5, 12, 20], [0, 1, 2, 20, 20, 20]])
def test_each_segment_attends_as_if_alone(cu_seqlens):
    query, key, value = random_qkv(20)
    packed = packed_attention(query, key, value, torch.tensor(cu_seqlens), 0.3)
    for start, stop in pairwise(cu_seqlens):
        alone = written_out(query[start:stop], key[start:stop], value[start:stop], 0.3)
        assert torch.allclose(packed[start:stop], alone, atol=1e-12)


def test_other_segments_change_nothing_by_a_single_bit():
    query, key, value = random_qkv(20)
    cu_seqlens = torch.tensor([0, 5, 12, 20])
    before = packed_attention(query, key, value, cu_seqlens, 0.3)
    for tensor in (query, key, value):
        tensor[5:12] += 1.0
    after = packed_attention(query, key, value, cu_seqlens, 0.3)
    assert torch.equal(before[:5], after[:5])
    assert torch.equal(before[12:], after[12:])
    assert not torch.equal(before[5:12], after[5:12])


def test_gradients_stay_within_a_segment():
    query, key, value = (tensor.requires_grad_() for tensor in random_qkv(20))
    output = packed_attention(query, key, value, torch.tensor([0, 5, 12, 20]), 0.3)
    output[5:12].sum().backward()
    for tensor in (query, key, value):
        assert torch.count_nonzero(tensor.grad[:5]) == torch.count_nonzero(tensor.grad[12:]) == 0
        assert torch.count_nonzero(tensor.grad[5:12]) > 0


@pytest.mark.parametrize("cu_seqlens", [[0, 5, 12], [1, 20], [0, 12, 5, 20]])
def test_lengths_that_do_not_cover_the_row_are_refused(cu_seqlens):
    query, key, value = random_qkv(20)
    with pytest.raises(ValueError, match="must increase from 0 to the 20 positions of the row"):
        packed_attention(query, key, value, torch.tensor(cu_seqlens), 0.3)


class Group:
    """One of several ranks whose tensors are all here: gathers from them in turn."""

    def __init__(self, size: int, rank: int):
        self._size, self._rank = size, rank

    def size(self):
        return self._size

    def rank(self):
        return self._rank


def gathered(monkeypatch, parts_of):
    """Let all_gather find the parts of a tensor that other ranks would send."""

    def all_gather(parts, part, group):
        whole = next(whole for whole in parts_of[group.rank()] if whole[0] is part)[1]
        for place, found in zip(parts, whole, strict=True):
            place.copy_(found)

    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_share_a_row_compute_its_attention(monkeypatch, size):
    cu_seqlens = torch.tensor([0, 12, 12, 36, 48])
    query, key, value = random_qkv(48)
    expected = packed_attention(query, key, value, cu_seqlens, 0.3)
    held = [partition_indices(cu_seqlens, size, rank) for rank in range(size)]
    for rank in range(size):
        parts = [tensor[held[rank]] for tensor in (query, key, value)]
        others = [[tensor[indices] for indices in held] for tensor in (query, key, value)]
        gathered(monkeypatch, {rank: list(zip(parts, others, strict=True))})
        output = packed_attention(*parts, cu_seqlens, 0.3, Group(size, rank))
        assert torch.allclose(output, expected[held[rank]], atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_varlen_attention_is_the_reference(groups):
    cu_seqlens = torch.tensor([0, 300, 301, 640, 1024, 1024], dtype=torch.int32)
    qkv = [tensor.float() for tensor in random_qkv(1024, groups=groups, dim=64)]
    expected = [tensor.clone().requires_grad_() for tensor in qkv]
    reference = packed_attention(*expected, cu_seqlens, 0.1)
    reference.sum().backward()
    found = [tensor.cuda().bfloat16().requires_grad_() for tensor in qkv]
    output = varlen_attention(*found, cu_seqlens.cuda(), 0.1, max_seqlen=400)
    output.float().sum().backward()
    assert torch.allclose(output.float().cpu(), reference, atol=3e-2)
    for tensor, exact in zip(found, expected, strict=True):
        assert torch.allclose(tensor.grad.float().cpu(), exact.grad, atol=1e-1, rtol=3e-2)


def test_varlen_attention_hands_the_kernel_what_it_takes():
    # The kernel's own shape function, on tensors without data: there is no kernel for the CPU.
    query, key, value = (
        torch.empty(64, heads, 16, dtype=torch.bfloat16, device="meta") for heads in (4, 2, 2)
    )
    cu_seqlens = torch.empty(5, dtype=torch.int32, device="meta")
    output = varlen_attention(query, key, value, cu_seqlens, 0.1, max_seqlen=40)
    assert output.shape == (64, 4, 16)


def test_unpacked_attention_is_causal():
    query, key, value = random_qkv(20)
    batch_first = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value)]
    output = causal_attention(*batch_first, 0.3).squeeze(0).transpose(0, 1)
    assert torch.allclose(output, written_out(query, key, value, 0.3), atol=1e-12)


@pytest.mark.parametrize("takes_groups", [True, False])
def test_heads_share_keys_with_every_varlen_attention_of_torch(monkeypatch, takes_groups):
    """torch 2.11 takes no groups: its kernel gets keys and values for every head."""
    seen = {}

    def new(q, k, v, a, b, c, d, *, scale=None, window_size=(-1, -1), enable_gqa=False):
        del v, a, b, c, d, scale, window_size
        seen.update(heads=k.shape[1], groups=enable_gqa)
        return q

    def old(q, k, v, a, b, c, d, *, scale=None, window_size=(-1, -1)):
        del v, a, b, c, d, scale, window_size
        seen.update(heads=k.shape[1], groups=False)
        return q

    module = types.ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = new if takes_groups else old
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert takes_scale_and_window()
    query, key = torch.zeros(6, 4, 8), torch.zeros(6, 2, 8)
    offsets = torch.tensor([0, 6], dtype=torch.int32)
    varlen_attention(query, key, key, offsets, 1.0, max_seqlen=6)
    assert seen == ({"heads": 2, "groups": True} if takes_groups else {"heads": 4, "groups": False})
