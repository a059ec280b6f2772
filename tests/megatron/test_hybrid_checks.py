# SPDX-License-Identifier: Apache-2.0
"""Flags and layer patterns that Megatron's HybridModel would ignore or train wrongly."""

from __future__ import annotations

from argparse import Namespace

import pytest

pytest.importorskip("megatron.core")

from megatron.core.transformer.enums import AttnBackend

from megatron_packing.megatron.flags import flag_of
from megatron_packing.megatron.hybrid_checks import IGNORED, hybrid_problems
from megatron_packing.megatron.layer_pattern import attention_layers, layer_pattern
from tests.trainer import needs_trainer

DEFAULTS = {
    "hybrid_layer_pattern": "*-*-",
    "hybrid_override_pattern": None,
    "attention_backend": AttnBackend.auto,
    "cpu_offloading_num_layers": 0,
    "deterministic_mode": False,
    "moe_layer_freq": 1,
    "multi_latent_attention": False,
    "no_rope_freq": None,
    "num_experts": None,
    "rotary_interleaved": False,
    "use_mamba_mem_eff_path": True,
    "use_rope_scaling": False,
    "window_attn_skip_freq": None,
}


def problems(**changes: object) -> list[str]:
    return list(hybrid_problems(Namespace(**{**DEFAULTS, **changes})))


def test_a_hybrid_model_of_attention_and_dense_layers_is_taken():
    assert problems() == []
    assert problems(hybrid_layer_pattern="*-|*-") == []
    assert problems(hybrid_layer_pattern="*E*-", num_experts=4) == []


@pytest.mark.parametrize("name", IGNORED)
def test_each_flag_that_hybrid_models_ignore_is_named_with_what_they_do(name):
    (sentence,) = problems(**{name: 2})
    assert sentence.startswith(f"{flag_of(name)} cannot be given with --hybrid-layer-pattern, ")
    assert IGNORED[name] in sentence
    assert sentence.endswith("leave one of the two out")
    assert problems(**{name: 2}, hybrid_layer_pattern=None) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_attn_skip_freq": 2}, "--window-attn-skip-freq is 2, but HybridModel counts"),
        ({"no_rope_freq": 4}, "--no-rope-freq is 4, but HybridModel counts every symbol"),
        ({"moe_layer_freq": 2}, "put E for experts and - for dense layers in the pattern"),
        ({"moe_layer_freq": [0, 1]}, "put E for experts and - for dense layers in the pattern"),
        ({"attention_backend": AttnBackend.local}, "--attention-backend local cannot be given"),
        ({"num_experts": 4}, "--num-experts is 4, but --hybrid-layer-pattern *-*- has no layer of"),
        ({"hybrid_layer_pattern": "*E"}, "has experts (E): give --num-experts"),
        ({"multi_latent_attention": True}, "give + in their place"),
        ({"hybrid_layer_pattern": "D-"}, "has layers D, which are not supported with packing"),
        (
            {"hybrid_layer_pattern": "*E/*E", "num_experts": 4},
            "has experts (E) in layers of multi-token prediction (after /)",
        ),
    ],
)
def test_what_would_be_trained_otherwise_than_said_is_refused(changes, message):
    (sentence,) = problems(**changes)
    assert message in sentence


def test_lists_of_layers_are_taken():
    lists = {"window_attn_skip_freq": [1, 1, 0, 1], "no_rope_freq": [0, 0, 1, 0]}
    assert problems(**lists) == []


@needs_trainer  # Megatron before 0.17 cannot import them without Triton
@pytest.mark.parametrize(
    ("symbol", "module", "flag", "packages"),
    [
        ("M", "megatron.core.ssm.mamba_mixer", "HAVE_MAMBA_SSM", "mamba-ssm and causal-conv1d"),
        ("G", "megatron.core.ssm.gated_delta_net", "HAVE_FLA", "flash-linear-attention"),
    ],
)
def test_kernels_that_are_not_installed_are_named(monkeypatch, symbol, module, flag, packages):
    pattern = f"{symbol}*-"
    monkeypatch.setattr(f"{module}.{flag}", False)
    (sentence,) = problems(hybrid_layer_pattern=pattern)
    assert packages in sentence
    monkeypatch.setattr(f"{module}.{flag}", True)
    assert problems(hybrid_layer_pattern=pattern) == []


@needs_trainer
def test_mamba_layers_that_take_no_boundaries_are_refused(monkeypatch):
    monkeypatch.setattr("megatron.core.ssm.mamba_mixer.HAVE_MAMBA_SSM", True)
    (sentence,) = problems(use_mamba_mem_eff_path=False, hybrid_layer_pattern="M-")
    assert sentence.startswith("--disable-mamba-mem-eff-path is not supported with Mamba layers (M")


@needs_trainer
def test_deterministic_gated_delta_nets_are_refused(monkeypatch):
    monkeypatch.setattr("megatron.core.ssm.gated_delta_net.HAVE_FLA", True)
    assert problems(deterministic_mode=True) == []
    (sentence,) = problems(deterministic_mode=True, hybrid_layer_pattern="G-")
    assert sentence.startswith("--deterministic-mode is not supported with gated delta nets (G in ")


def test_the_older_flag_is_named_where_it_was_given():
    (sentence,) = problems(hybrid_override_pattern="*-*-", rotary_interleaved=True)
    assert "cannot be given with --hybrid-override-pattern" in sentence


def test_attention_is_asked_about_in_attention_layers_alone():
    assert attention_layers(Namespace(hybrid_layer_pattern="M*-|+E/*-", num_layers=5)) == [2, 4]
    assert attention_layers(Namespace(hybrid_layer_pattern="M-M-", num_layers=4)) == []
    assert attention_layers(Namespace(hybrid_layer_pattern=None, num_layers=3)) == [1, 2, 3]
    assert attention_layers(Namespace()) == [1]
    assert layer_pattern(Namespace(hybrid_override_pattern="M*")) == "M*"
