# SPDX-License-Identifier: Apache-2.0
"""Planted leaks are found and their layer is named; right models raise no alarm."""

from __future__ import annotations

import contextlib
import types

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from megatron_packing.isolation import flash
from megatron_packing.isolation.causal_model import find_model
from megatron_packing.isolation.check import FLASH, check_model, check_rows
from megatron_packing.isolation.packed_row import PackedRow

RIGHT = {
    # of each kind of layers: model type, attention
    "dense": ("llama", "sdpa"),
    "sliding window and soft cap": ("gemma2", "eager"),
    "experts": ("qwen3_moe", "eager"),
    "latent attention": ("deepseek_v3", "sdpa"),
    "attention sinks": ("gpt_oss", FLASH),
    "gated delta net": ("qwen3_next", "sdpa"),
    "Mamba 2": ("nemotron_h", FLASH),
}


def build(model_type, attention="eager"):
    return find_model(model_type, as_is=False).build(attention, "cpu")


@pytest.mark.parametrize("name", RIGHT)
def test_right_models_raise_no_alarm(name):
    model_type, attention = RIGHT[name]
    (finding,) = check_model(model_type, ["varlen"], [attention]).findings
    assert finding.outcome == "apart", finding.fault
    assert finding.moved < 1e-6
    assert finding.gradient == 0
    assert finding.alone < 1e-5


class MixesBackward(torch.autograd.Function):
    """Changes nothing forward, and gives each position the gradient of the next."""

    @staticmethod
    def forward(_ctx, hidden):
        return hidden.clone()

    @staticmethod
    def backward(_ctx, gradient):
        return gradient + gradient.roll(-1, dims=1)


def tell(module, change):
    """Give a module other arguments: ``change(kwargs)``."""
    module.register_forward_pre_hook(
        lambda _, args, kwargs: (args, change(kwargs)), with_kwargs=True
    )


def plant(module, change):
    """Let ``change(forward, *args, **kwargs)`` stand for a module's ``forward``."""
    forward = module.forward
    module.forward = types.MethodType(
        lambda _self, *args, **kwargs: change(forward, *args, **kwargs), module
    )


def without_documents(kwargs):
    length = kwargs["hidden_states"].shape[1]
    hidden = torch.full((length, length), -torch.inf).triu(1)[None, None]
    return {**kwargs, "attention_mask": hidden}


def late_boundary(kwargs):
    mask = kwargs["attention_mask"]
    if mask.shape[-1] == 61:  # the first token of document 3 sees document 2
        mask = mask.clone()
        mask[..., 14, 13] = 0
    return {**kwargs, "attention_mask": mask}


def running_mean(forward, hidden):
    output = forward(hidden)
    return output + output.cumsum(1) / 61


def mixed_backward(forward, hidden):
    return forward(MixesBackward.apply(hidden))


def running_positions(forward, hidden, position_ids):
    return forward(hidden, torch.arange(position_ids.shape[1])[None])


ARGUMENTS = (without_documents, late_boundary)
PLANTED = {
    "a layer without the mask of documents": (
        "layers.2.self_attn",
        without_documents,
        "leaks",
        "model.layers.2.self_attn",
        "its mask lets documents see each other",
    ),
    "a boundary one position late": (
        "layers.1.self_attn",
        late_boundary,
        "leaks",
        "model.layers.1.self_attn",
        "its mask lets documents see each other",
    ),
    "a layer that mixes positions": (
        "layers.3.mlp",
        running_mean,
        "leaks",
        "model.layers.3.mlp",
        "neither attention nor recurrent",
    ),
    "gradients alone": (
        "layers.1.mlp",
        mixed_backward,
        "leaks",
        "model.layers.1.mlp",
        "neither attention nor recurrent",
    ),
    "positions that run through the row": (
        "rotary_emb",
        running_positions,
        "apart",  # rotary attention sees differences of positions alone
        "",
        "",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_leaks_are_found_and_the_layer_is_named(name):
    path, change, outcome, layer, cause = PLANTED[name]
    model = build("llama")
    (tell if change in ARGUMENTS else plant)(model.model.get_submodule(path), change)
    finding, _ = check_rows(model, "positions", "eager")
    assert (finding.outcome, finding.layer) == (outcome, layer)
    assert cause in finding.cause
    if name == "gradients alone":
        assert finding.moved == 0
        assert "gave" in finding.fault


def test_learned_positions_that_run_through_the_row_are_found_by_documents_alone():
    model = build("gpt2", "sdpa")

    def positions(forward, position_ids):
        return forward(torch.arange(position_ids.shape[-1])[None])

    plant(model.transformer.wpe, positions)
    finding, _ = check_rows(model, "positions", "sdpa")
    assert finding.outcome == "place"
    assert finding.moved < 1e-6 < 1e-3 < finding.alone
    assert finding.layer == "transformer.h.0.ln_1"
    assert finding.cause == "positions that do not restart in each document"


def test_a_recurrent_layer_that_decays_through_the_row_is_found_by_documents_alone():
    model = build("qwen3_next", "sdpa")

    def decays(forward, hidden_states, **others):
        output = forward(hidden_states, **others)
        return output * torch.exp(-1e-3 * torch.arange(output.shape[1]))[None, :, None]

    plant(model.model.layers[0].linear_attn, decays)
    finding, _ = check_rows(model, "varlen", "sdpa")
    assert (finding.outcome, finding.layer) == ("place", "model.layers.0.linear_attn")
    assert finding.moved < 1e-6


@pytest.mark.parametrize(
    ("lost", "problem"),
    [
        ({"seq_idx"}, "its kernel causal_conv1d_fn got no seq_idx"),
        ({"cu_seq_lens_q"}, "its kernel chunk_gated_delta_rule got no cu_seqlens"),
    ],
)
def test_boundaries_that_one_recurrent_layer_loses_are_named(lost, problem):
    model = build("qwen3_next", "sdpa")
    layer = model.model.layers[1].linear_attn
    tell(layer, lambda kwargs: {k: v for k, v in kwargs.items() if k not in lost})
    finding, kernels = check_rows(model, "varlen", "sdpa")
    assert (finding.outcome, finding.layer) == ("leaks", "model.layers.1.linear_attn")
    assert finding.cause == problem
    assert kernels == ("causal_conv1d_fn", "chunk_gated_delta_rule")


def test_a_layer_that_hands_flash_attention_no_boundaries_is_named():
    with flash.stand_in():
        model = build("llama", FLASH)
        attention = model.model.layers[1].self_attn
        tell(attention, lambda kwargs: {k: v for k, v in kwargs.items() if k != "position_ids"})
        finding, _ = check_rows(model, "positions", FLASH)
    assert (finding.outcome, finding.layer) == ("leaks", "model.layers.1.self_attn")
    assert "flash attention runs over the whole row" in finding.cause


def test_numbers_that_are_not_finite_are_not_taken_for_documents_that_are_apart():
    model = build("llama")
    plant(model.model.layers[1].mlp, lambda forward, hidden: forward(hidden) / 0)
    finding, _ = check_rows(model, "positions", "eager")
    assert finding.outcome == "refused"
    assert "not finite, first in model.layers.1.mlp (LlamaMLP)" in finding.fault


def test_models_of_transformers_that_leak_are_found():
    (finding,) = check_model("jamba", ["varlen"], ["sdpa"]).findings
    assert (finding.outcome, finding.layer) == ("leaks", "model.layers.0.mamba")
    assert "its kernel selective_scan_fn takes no boundaries" in finding.cause
    (finding,) = check_model("gpt_oss", ["positions"], ["eager"]).findings
    assert (finding.outcome, finding.layer) == ("leaks", "model.layers.0.self_attn")
    assert "does not make it from position_ids" in finding.cause


@pytest.mark.parametrize("model_type", ["gemma2", "mistral"])
def test_what_stands_in_for_flash_attention_computes_what_eager_attention_does(model_type):
    row, logits = PackedRow.random(100), []
    for attention in ("eager", FLASH):
        with flash.stand_in() if attention == FLASH else contextlib.nullcontext():
            model = build(model_type, attention)
            inputs = row.inputs("positions", model.device)
            logits.append(model(**inputs, use_cache=False).logits.detach())
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize("settings", [{}, {"use_cache": False, "attention_mask": True}])
def test_a_cache_or_a_mask_of_ones_lets_documents_of_any_model_see_each_other(settings):
    """What docs/check-model.md warns of."""
    model, row = build("llama", "sdpa"), PackedRow.random(100)
    settings = dict(settings)
    if "attention_mask" in settings:
        settings["attention_mask"] = torch.ones(1, len(row.tokens), dtype=torch.int64)
    with torch.no_grad():
        losses = [
            one.losses(model(**one.inputs("positions", model.device), **settings).logits[0])
            for one in (row, row.with_others([0, 2, 4], 100))
        ]
    moved = (losses[0] - losses[1]).abs()
    assert moved[row.spans[3]].max() > 1e-3
