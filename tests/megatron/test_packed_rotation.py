# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import inspect
from collections import Counter
from types import SimpleNamespace

import pytest

pytest.importorskip("megatron.core")

import torch
from megatron.core.models.common.embeddings import rope_utils
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_packing.megatron import packed_rotation
from megatron_packing.megatron.packed_rotation import (
    describe_rotation,
    index_rotary_positions,
    rotary_positions,
)

HEADS, CHANNELS = 2, 8
OFFSETS = [0, 16, 24, 64, 64, 96]  # with an empty segment
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::unique_consecutive")


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names[function.name()] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def rotations(monkeypatch):
    """Megatron's function, and the one in its place."""
    importlib.reload(rope_utils)
    original = rope_utils._apply_rotary_pos_emb_thd
    monkeypatch.setattr(rope_utils, "_apply_rotary_pos_emb_thd", original)
    index_rotary_positions.cache_clear()
    index_rotary_positions()
    replaced = rope_utils._apply_rotary_pos_emb_thd
    yield original, replaced
    importlib.reload(rope_utils)
    index_rotary_positions.cache_clear()


def group_of(size: int, rank: int) -> SimpleNamespace:
    return SimpleNamespace(size=lambda: size, rank=lambda: rank)


def latent_name() -> str:
    """0.19 renamed the setting."""
    parameters = inspect.signature(rope_utils._apply_rotary_pos_emb_bshd).parameters
    new = "mla_rotary_interleaved"
    return new if new in parameters else "multi_latent_attention"


@pytest.mark.parametrize("longest", [40, OFFSETS[-1]])  # or angles of the whole row
@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize("is_latent", [False, True])
@pytest.mark.parametrize(("size", "rank"), [(1, 0), (2, 0), (2, 1), (4, 2)])
def test_values_and_gradients_are_megatron_s_bit_for_bit(
    rotations, longest, is_interleaved, is_latent, size, rank
):
    original, replaced = rotations
    generator = torch.Generator().manual_seed(0)
    held = OFFSETS[-1] // size
    t = torch.randn(held, HEADS, CHANNELS, generator=generator, requires_grad=True)
    freqs = torch.randn(longest, 1, 1, CHANNELS, generator=generator)
    d_out = torch.randn(held, HEADS, CHANNELS, generator=generator)
    settings = {
        "rotary_interleaved": is_interleaved,
        latent_name(): is_latent,
        "mscale": 1.3,
        "cp_group": group_of(size, rank),
    }
    # Megatron's own fails on empty segments in some cases.
    nonempty = torch.tensor(OFFSETS, dtype=torch.int32).unique_consecutive()
    expected = original(t, nonempty, freqs, **settings)
    found = replaced(t, torch.tensor(OFFSETS, dtype=torch.int32), freqs, **settings)
    assert torch.equal(found, expected)
    (expected_gradient,) = torch.autograd.grad(expected, t, d_out)
    (gradient,) = torch.autograd.grad(found, t, d_out)
    assert torch.equal(gradient, expected_gradient)


def test_kernels_do_not_depend_on_the_width_and_nothing_waits(rotations):
    _, replaced = rotations
    counts = []
    for width in (3, 129):
        offsets = torch.full((width,), 256, dtype=torch.int32)
        offsets[: width - 1] = torch.arange(width - 1) * 2
        t, freqs = torch.randn(256, HEADS, CHANNELS), torch.randn(255, 1, 1, CHANNELS)
        with Operations() as run:
            for _ in range(2):
                replaced(t, offsets, freqs, cp_group=group_of(1, 0))
        counts.append(run.names)
    assert counts[0] == counts[1]
    assert not set(WAITS) & set(counts[0])
    assert counts[0]["aten::searchsorted.Tensor"] == 1  # layers share the positions


def test_a_changed_row_gets_its_own_positions(rotations):
    _, replaced = rotations
    t, freqs = torch.randn(8, 1, 4), torch.randn(7, 1, 1, 4)
    offsets = torch.tensor([0, 4, 8])
    first = replaced(t, offsets, freqs, cp_group=group_of(1, 0))
    offsets[1] = 5
    second = replaced(t, offsets, freqs, cp_group=group_of(1, 0))
    assert not torch.equal(first, second)
    again = replaced(t, torch.tensor([0, 5, 8]), freqs, cp_group=group_of(1, 0))
    assert torch.equal(again, second)


def test_positions_restart_in_each_segment_or_run_through_the_row():
    offsets = torch.tensor([0, 0, 3, 5, 5])
    assert rotary_positions(offsets, 5).tolist() == [0, 1, 2, 0, 1]
    assert rotary_positions(offsets, 5, is_of_row=True).tolist() == [0, 1, 2, 3, 4]
    shared = torch.tensor([0, 8, 12])
    first = rotary_positions(shared, 6, size=2, rank=0)
    assert first.tolist() == [0, 1, 6, 7, 0, 3]
    second = rotary_positions(shared, 6, size=2, rank=1, is_of_row=True)
    assert second.tolist() == [2, 3, 4, 5, 9, 10]


def test_calls_that_are_not_understood_go_to_megatron(rotations):
    original, replaced = rotations
    t, freqs = torch.randn(8, 1, 4), torch.randn(7, 1, 1, 4)
    offsets = torch.tensor([0, 4, 8])
    expected = original(t, offsets, freqs, True, cp_group=group_of(1, 0))
    assert torch.equal(replaced(t, offsets, freqs, True, cp_group=group_of(1, 0)), expected)
    with pytest.raises((ValueError, AttributeError)):
        replaced(t, offsets, freqs)
    assert packed_rotation._REPLACED in vars(rope_utils)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"position_embedding_type": "rope", "apply_rope_fusion": True}, "Megatron's fused kernel"),
        ({"position_embedding_type": "rope", "apply_rope_fusion": False}, "not fused"),
        ({"position_embedding_type": "yarn"}, "not fused"),
        ({"position_embedding_type": "none", "multi_latent_attention": True}, "not fused"),
    ],
)
def test_the_log_says_which_rotary_embedding_runs(settings, words):
    assert words in describe_rotation(SimpleNamespace(**settings))


@pytest.mark.parametrize("kind", ["learned_absolute", "none"])
def test_the_log_says_nothing_where_there_is_none(kind):
    assert describe_rotation(SimpleNamespace(position_embedding_type=kind)) is None
