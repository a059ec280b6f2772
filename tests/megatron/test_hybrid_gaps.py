# SPDX-License-Identifier: Apache-2.0
"""What GPTModel reads of a configuration and HybridModel does not, in Megatron's source.

A test that is expected to fail and passes means that a newer Megatron has closed a gap: try it, and
take the flag out of ``megatron_packing.megatron.hybrid_checks`` for that release.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

import megatron.core
from megatron.core.transformer import MLATransformerConfig

from megatron_packing.megatron.hybrid_checks import IGNORED
from megatron_packing.megatron.versions import core_version
from tests.trainer import needs_trainer

pytestmark = needs_trainer

SOURCES = Path(next(iter(megatron.core.__path__))).parent
OF_GPT = (
    "core.models.gpt.experimental_attention_variant_module_specs",
    "core.models.gpt.gpt_layer_specs",
    "core.models.gpt.gpt_model",
    "core.models.gpt.heterogeneous.heterogeneous_layer_specs",
    "core.transformer.transformer_block",
    "training.models.gpt",
)
OF_HYBRID = (
    "core.models.hybrid.hybrid_block",
    "core.models.hybrid.hybrid_layer_allocation",
    "core.models.hybrid.hybrid_layer_specs",
    "core.models.hybrid.hybrid_model",
    "training.models.hybrid",
)
SETTINGS = {field.name for field in fields(MLATransformerConfig)}
# Of GPTModel from 0.20 on.
NEWER = {"enable_mhc_connections", "mhc_num_residual_streams", "mhc_recompute_layer_num"} - SETTINGS
# HybridModel reads one of its values from 0.20 on, which is refused for all models.
CLOSED_IN_PART = {"experimental_attention_variant"} if core_version() >= (0, 20) else set()
COUNT_OF_LAYERS = {"no_rope_freq", "window_attn_skip_freq"}
# What HybridModel need not read itself, with the reason.
UNHARMED = {
    "its attention and norms read it": {
        "normalization", "qk_l2_norm", "qk_layernorm", "recompute_modules",
    },
    "the pattern says it, or Megatron refuses it beside the pattern": {
        "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split",
        "moe_layer_freq", "num_moe_experts", "pipeline_model_parallel_size",
    },
    "experts are always grouped, which gives the same": {"moe_grouped_gemm"},
    "read with a flag that is refused": {
        "_cpu_offloading_context", "cpu_offloading", "cpu_offloading_activations",
        "cpu_offloading_double_buffering", "cpu_offloading_retain_pinned_cpu_buffers",
        "cpu_offloading_weights", "dsa_indexer_skip_topk_offset", "dsa_indexer_topk_freq",
        "heterogeneous_block_specs", "kitchen_attention_backend", "mhc_num_residual_streams",
        "mhc_recompute_layer_num", "mrope_section", "mtp_use_repeated_layer", "use_kitchen",
    },
    "about names in checkpoints": {"hetereogenous_dist_checkpoint"},
    "refused with one of its values": {"attention_backend"},
    "the attention backend is chosen from it": {"transformer_impl"},
    "only checked beside CUDA graphs, which are refused": {"use_te_rng_tracker"},
    "read where text is generated": {"inference_fuse_tp_communication"},
}  # fmt: skip


def source_of(module: str) -> str:
    return SOURCES.joinpath(*module.split(".")).with_suffix(".py").read_text()


def names_in(modules: tuple[str, ...], pattern: str = r"(\w+)") -> set[str]:
    """Words of modules, without what they import."""
    texts = (re.sub(r"^(from|import) .*", "", source_of(name), flags=re.M) for name in modules)
    return {name for text in texts for name in re.findall(pattern, text)}


def only_gpt_models_read() -> set[str]:
    read = r"(?:config|cfg|transformer)(?:\.|, \")(\w+)"
    return (names_in(OF_GPT, read) - names_in(OF_HYBRID, read)) & SETTINGS


def test_every_setting_that_only_gpt_models_read_is_decided():
    only = only_gpt_models_read()
    decided = {*IGNORED, *COUNT_OF_LAYERS}.union(*UNHARMED.values())
    assert len(only) > 20
    assert only - decided == set(), "refuse them in hybrid_checks.py, or say why they are unharmed"


def test_each_reason_is_about_settings_that_only_gpt_models_read():
    assert set().union(*UNHARMED.values()) - NEWER <= only_gpt_models_read()


# What shows that HybridModel honors a flag that has another name in its configuration.
SHOWS = {
    "use_rope_scaling": "rope_scaling",
    "heterogeneous_layers_config_path": "HeterogeneousTransformerConfig",
    "kitchen_config_file": "use_kitchen",
    "kitchen_recipe_number": "use_kitchen",
    "cpu_offloading_num_layers": "cpu_offloading",
    "fp8_output_proj": "is_mxfp8_output_proj_active",
}


@pytest.mark.parametrize(
    "name", sorted({*IGNORED, *COUNT_OF_LAYERS, "mrope_section"} - CLOSED_IN_PART)
)
@pytest.mark.xfail(reason="HybridModel does not read the setting", strict=True)
def test_hybrid_models_read(name):
    assert SHOWS.get(name, name) in names_in(OF_HYBRID)


@pytest.mark.parametrize("name", sorted(IGNORED.keys() - NEWER))
def test_gpt_models_read(name):
    """So a flag that both ignore is not refused with hybrid models alone."""
    assert SHOWS.get(name, name) in names_in(OF_GPT)


CUTS_MASK = re.compile(r"padding_mask = \(?\s*tensor_parallel\.scatter")


def test_gpt_models_cut_the_padding_mask():
    assert CUTS_MASK.search(source_of("core.models.gpt.gpt_model"))


@pytest.mark.xfail(reason="only GPTModel cuts the padding mask on its first stage", strict=True)
def test_hybrid_models_cut_the_padding_mask():
    assert CUTS_MASK.search(source_of("core.models.hybrid.hybrid_model"))


@pytest.mark.xfail(reason="deterministic gated delta nets take no cu_seqlens", strict=True)
def test_deterministic_gated_delta_nets_take_packed_rows():
    sentence = "Packed sequence does not support deterministic mode."
    assert sentence not in source_of("core.ssm.gated_delta_net.gdn")
