# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

pytest.importorskip("megatron.core")

import torch
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.transformer import TransformerConfig

from megatron_packing.errors import InputError
from megatron_packing.megatron import attention_limits, batch
from megatron_packing.megatron.attention_limits import (
    MOST_OFFSETS_UNDER_CONTEXT_PARALLELISM,
    attention_problems,
    width_problem,
)
from megatron_packing.megatron.flags import flag_of

NEWEST = (2, 20)


def problems(te_version=NEWEST, **settings) -> list[str]:
    return list(attention_problems(SimpleNamespace(**settings), flag_of, te_version=te_version))


def under_cp(kind="p2p", **settings) -> list[str]:
    return problems(context_parallel_size=2, cp_comm_type=kind, **settings)


@pytest.mark.parametrize("name", ["fp8_dot_product_attention", "fp8_multi_head_attention"])
def test_fp8_attention_is_refused_and_fp8_of_other_layers_is_not(name):
    (problem,) = problems(fp8="hybrid", **{name: True})
    assert problem.startswith(f"{flag_of(name)} is not supported")
    assert not problems(fp8="hybrid", **{name: False})
    assert not problems(fp8=None, **{name: True})


def test_fp8_settings_may_be_in_another_object():
    precision = SimpleNamespace(fp8="hybrid", fp8_dot_product_attention=True)
    model = SimpleNamespace(fp8=None)
    assert len(list(attention_problems(model, flag_of, precision=precision))) == 1


@pytest.mark.parametrize("kind", ["p2p", "a2a+p2p", None])
@pytest.mark.parametrize("window", [(4095, 0), [127, 0], 512])
def test_a_window_under_context_parallelism_needs_another_communication(kind, window):
    (problem,) = under_cp(kind, window_size=window)
    assert "--window-size" in problem
    assert "--cp-comm-type a2a" in problem
    assert not under_cp("a2a", window_size=window)
    assert not under_cp("all_gather", window_size=window)
    assert not problems(window_size=window)


@pytest.mark.parametrize("window", [None, (-1, 0), (-1, -1)])
def test_attention_without_a_window_takes_any_communication(window):
    assert not under_cp("p2p", window_size=window)


def test_only_the_layers_with_a_window_need_a2a():
    every_second = {"window_size": (127, 0), "window_attn_skip_freq": 2}
    assert not under_cp(["a2a", "p2p", "a2a", "p2p"], **every_second)
    assert under_cp(["p2p", "a2a", "p2p", "a2a"], **every_second)
    assert under_cp(["p2p"], **every_second)
    named = {"window_size": (127, 0), "window_attn_skip_freq": [0, 1]}
    assert not under_cp(["p2p", "a2a"], **named)
    assert under_cp(["a2a", "p2p"], **named)
    assert not under_cp("p2p", window_size=(127, 0), window_attn_skip_freq=1)  # of no layer


@pytest.mark.parametrize("kind", ["p2p", "all_gather", "a2a+p2p"])
def test_a_sink_needs_a2a(kind):
    (problem,) = under_cp(kind, softmax_type="off-by-one")
    assert "--cp-comm-type a2a" in problem
    assert not under_cp("a2a", softmax_type="off-by-one")
    assert not problems(softmax_type="off-by-one")


@pytest.mark.parametrize("kind", ["p2p", "a2a"])
def test_a_learnable_sink_is_refused_with_the_size_of_its_wrong_gradient(kind):
    settings = {"softmax_type": "learnable", "window_size": (127, 0)}
    (problem,) = problems(context_parallel_size=4, cp_comm_type=kind, **settings)
    assert "4 times too large" in problem
    assert "--context-parallel-size 1" in problem
    assert not problems(context_parallel_size=1, **settings)


@pytest.mark.parametrize(
    ("kind", "first"), [("a2a", (2, 10)), ("a2a+p2p", (2, 10)), ("all_gather", (2, 18))]
)
def test_releases_that_do_not_take_packed_rows_are_named(kind, first):
    before = (first[0], first[1] - 1)
    (problem,) = problems(before, context_parallel_size=2, cp_comm_type=kind)
    assert f"{first[0]}.{first[1]}" in problem
    assert not problems(first, context_parallel_size=2, cp_comm_type=kind)


@pytest.fixture(params=[False, True], ids=["0.19", "0.20"])
def falls_back(request, monkeypatch):
    """Whether Megatron does not fuse rotary embeddings that YaRN scales, as from 0.20 on."""
    for module in (attention_limits, batch):
        monkeypatch.setattr(module, "fused_rotation_falls_back_to_scale", lambda: request.param)
    return request.param


def test_fused_yarn_is_refused_where_its_factor_is_dropped(falls_back):
    settings = {"position_embedding_type": "yarn", "apply_rope_fusion": True}
    if falls_back:
        assert not problems(**settings)
        return
    (problem,) = problems(**settings)
    assert "give --no-rope-fusion" in problem
    (problem,) = attention_problems(SimpleNamespace(**settings), lambda name: f"cfg.model.{name}")
    assert problem.endswith("give cfg.model.apply_rope_fusion = False")
    assert not problems(**settings | {"apply_rope_fusion": False})
    assert not problems(**settings | {"position_embedding_type": "rope"})
    assert not problems(**settings, multi_latent_attention=True)  # has a kernel of its own


def test_a_model_with_fused_yarn_takes_no_packed_row_where_its_factor_is_dropped(falls_back):
    with warnings.catch_warnings():  # of its own old default
        warnings.simplefilter("ignore")
        config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    config.apply_rope_fusion = True
    model = torch.nn.Module()
    model.config, model.position_embedding_type = config, "yarn"
    expected = pytest.raises(InputError, match="apply_rope_fusion to False")
    with nullcontext() if falls_back else expected:
        batch._check_scaling(model)
    config.apply_rope_fusion = False
    batch._check_scaling(model)


def test_offsets_have_a_limit_under_context_parallelism():
    most = MOST_OFFSETS_UNDER_CONTEXT_PARALLELISM
    assert width_problem(most, 2) is None
    assert width_problem(most + 1, 1) is None
    problem = width_problem(most + 1, 2)
    assert "rows have 12,289 entries of cu_seqlens" in problem
    assert "at most 12,288" in problem


def test_fused_interleaved_rotation_is_refused_where_megatron_drops_it(monkeypatch):
    given = {}
    kernel = "fused_apply_rotary_pos_emb_thd"
    monkeypatch.setattr(rope_utils, kernel, lambda *_, **settings: given.update(settings))
    config = SimpleNamespace(
        apply_rope_fusion=True, rotary_interleaved=True, multi_latent_attention=False
    )
    group = SimpleNamespace(size=lambda: 1, rank=lambda: 0)
    nothing = torch.empty(0)
    rope_utils.apply_rotary_pos_emb(nothing, nothing, config, nothing, cp_group=group)
    found = problems(position_embedding_type="rope", **vars(config))
    if given.get("interleaved"):
        assert found == []
    else:
        assert "does not interleave fused ones on packed rows: give --no-rope-fusion" in found[0]
    config.apply_rope_fusion = False
    assert problems(position_embedding_type="rope", **vars(config)) == []
