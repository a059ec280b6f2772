from __future__ import annotations

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from megatron_packing.thd.attention import causal_attention, packed_attention  # noqa: E402


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
    with pytest.raises(ValueError, match="must rise from 0 to the 20 positions of the row"):
        packed_attention(query, key, value, torch.tensor(cu_seqlens), 0.3)


def test_unpacked_attention_is_causal():
    query, key, value = random_qkv(20)
    batch_first = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value)]
    output = causal_attention(*batch_first, 0.3).squeeze(0).transpose(0, 1)
    assert torch.allclose(output, written_out(query, key, value, 0.3), atol=1e-12)
