# SPDX-License-Identifier: Apache-2.0
"""Refuses what would train wrongly in Megatron's HybridModel, or what it would ignore.

With ``--hybrid-layer-pattern`` Megatron builds HybridModel in place of GPTModel. It ignores some
flags that GPTModel honors. tests/megatron/test_hybrid_gaps.py compares both in the source of
Megatron and notices a release that closes a gap.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import megatron.core
from megatron.core.transformer.enums import AttnBackend

from megatron_packing.megatron.flags import flag_of
from megatron_packing.megatron.layer_pattern import (
    all_symbols,
    layer_pattern,
    layer_symbols,
    multi_token_symbols,
)
from megatron_packing.megatron.versions import flag_value

_SUPPORTED = "*+-EMG"
_PATTERN_SAYS = "the pattern says what each layer is"

IGNORED = {
    # Rotary embeddings.
    "rotary_interleaved": "its rotary embeddings are not interleaved",
    "use_rope_scaling": "it does not scale rotary embeddings, which Llama 3.1 and later need",
    # What a layer is.
    "experimental_attention_variant": f"{_PATTERN_SAYS}, and G is a gated delta net",
    "heterogeneous_layers_config_path": _PATTERN_SAYS,
    "linear_attention_freq": _PATTERN_SAYS,
    # What a layer is built of.
    "kitchen_config_file": "it has no Kitchen layers",
    "kitchen_recipe_number": "it has no Kitchen layers",
    "use_kitchen_attention": "it has no Kitchen layers",
    "use_grouped_gemm_for_dense_mlp": "its dense layers are plain",
    "use_te_activation_func": "its activations are Megatron's",
    "use_transformer_engine_op_fuser": "its layers are not fused this way",
    "enable_mhc_connections": "it has no hyper-connections",
    # Where activations and gradients are kept, and how the output layer computes.
    "cpu_offloading_num_layers": "it does not offload layers",
    "defer_embedding_wgrad_compute": "its output layer keeps nothing for later",
    "fp8_output_proj": "its output layer is not in FP8",
}
"""Flags of GPTModel that HybridModel ignores, by argument name, with what it does instead.

Looked at in megatron-core 0.19.2 and in the main branch of 2026-08-22 (0.20.0), which reads the
attention variant gdn2. An argument is given if it is neither None, nor 0, nor False."""


def hybrid_problems(args: Namespace) -> Iterator[str]:
    """Yield one sentence for each setting that a hybrid model would ignore or train wrongly."""
    pattern = layer_pattern(args)
    if pattern is None:
        return
    given = flag_value(args, "hybrid_override_pattern")
    flag = flag_of("hybrid_override_pattern" if given else "hybrid_layer_pattern")
    yield from _ignored(args, flag)
    if "E" in multi_token_symbols(pattern):
        yield (
            f"{flag} {pattern} has experts (E) in layers of multi-token prediction (after /), to "
            f"which HybridModel gives no padding mask, so their routers would count padding: give "
            f"other layers there"
        )
    symbols = all_symbols(pattern)
    for symbol in dict.fromkeys(symbols):
        if symbol not in _SUPPORTED:
            yield (
                f"{flag} {pattern} has layers {symbol}, which are not supported with packing: use "
                f"{', '.join(_SUPPORTED)}"
            )
    if args.multi_latent_attention and "*" in symbols:
        yield (
            f"{flag} {pattern} has attention layers (*), which ignore --multi-latent-attention: "
            f"give + in their place, or leave --multi-latent-attention out"
        )
    yield from _expert_problems(args, flag, pattern)
    yield from _recurrence_problems(args, flag, pattern)


def _ignored(args: Namespace, flag: str) -> Iterator[str]:
    version = megatron.core.__version__
    for name, reason in IGNORED.items():
        if getattr(args, name, None):
            yield (
                f"{flag_of(name)} cannot be given with {flag}, because HybridModel of "
                f"megatron-core {version} ignores it: {reason}; leave one of the two out"
            )
    if args.moe_layer_freq != 1:
        yield (
            f"--moe-layer-freq cannot be given with {flag}, because HybridModel ignores it: put E "
            f"for experts and - for dense layers in the pattern"
        )
    counts = {
        "window_attn_skip_freq": args.window_attn_skip_freq,
        "no_rope_freq": args.no_rope_freq,
    }
    for name, count in counts.items():
        if isinstance(count, int):
            yield (
                f"{flag_of(name)} is {count}, but HybridModel counts every symbol of {flag} as a "
                f"layer: give a list with an entry for each symbol"
            )
    if args.attention_backend == AttnBackend.local:
        yield (
            f"--attention-backend local cannot be given with {flag}, because HybridModel ignores "
            f"it; leave it out"
        )


def _expert_problems(args: Namespace, flag: str, pattern: str) -> Iterator[str]:
    has_experts = "E" in layer_symbols(pattern)
    if has_experts and args.num_experts is None:
        yield f"{flag} {pattern} has experts (E): give --num-experts"
    if args.num_experts is not None and not has_experts:
        yield (
            f"--num-experts is {args.num_experts}, but {flag} {pattern} has no layer of experts: "
            f"put E in place of -, or leave --num-experts out"
        )


def _recurrence_problems(args: Namespace, flag: str, pattern: str) -> Iterator[str]:
    """Mamba (M) and gated delta nets (G) need kernels that Megatron does not install."""
    symbols = all_symbols(pattern)
    if "M" in symbols:
        from megatron.core.ssm.mamba_mixer import HAVE_MAMBA_SSM

        if not HAVE_MAMBA_SSM:
            yield (
                f"{flag} {pattern} has Mamba layers (M), which need the packages mamba-ssm and "
                f"causal-conv1d: install both, or use NVIDIA's image that has them"
            )
        if not args.use_mamba_mem_eff_path:
            yield (
                f"--disable-mamba-mem-eff-path is not supported with Mamba layers (M in {flag} "
                f"{pattern}) on packed rows, because Megatron's other code takes no cu_seqlens: "
                f"leave it out"
            )
    if "G" in symbols:
        from megatron.core.ssm.gated_delta_net import HAVE_FLA

        if not HAVE_FLA:
            yield (
                f"{flag} {pattern} has gated delta nets (G), which need the package "
                f"flash-linear-attention: install it, or use NVIDIA's image that has it"
            )
        if args.deterministic_mode:
            yield (
                f"--deterministic-mode is not supported with gated delta nets (G in {flag} "
                f"{pattern}) on packed rows, because Megatron's deterministic code takes no "
                f"cu_seqlens: leave it out"
            )
