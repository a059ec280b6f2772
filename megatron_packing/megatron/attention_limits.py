# SPDX-License-Identifier: Apache-2.0
"""Attention settings that Transformer Engine cannot compute, or trains wrongly, on packed rows.

A rule holds for every GPU and every cuDNN. ``attention_choice`` asks Transformer Engine about the
rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from megatron.core.transformer.utils import is_layer_window_attention

from megatron_packing.megatron.versions import (
    fused_rotation_falls_back_to_scale,
    fused_rotation_interleaves,
)

MOST_OFFSETS_UNDER_CONTEXT_PARALLELISM = 12_288
"""Entries of ``cu_seqlens`` that Transformer Engine's context-parallel kernels can hold.

They copy it, in int32, into the 48 KiB of shared memory that a CUDA kernel gets without an opt-in
(``common/fused_attn/context_parallel.cu``)."""

# The first releases of Transformer Engine that take packed rows with each kind of communication.
_FIRST_RELEASES = {"p2p": (2, 2), "a2a": (2, 10), "a2a+p2p": (2, 10), "all_gather": (2, 18)}


def transformer_engine_version() -> tuple[int, int] | None:
    """Return the major and minor version of Transformer Engine, or None if it is not installed."""
    try:
        numbers = re.match(r"(\d+)\.(\d+)", version("transformer_engine"))
    except PackageNotFoundError:
        return None
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def attention_problems(
    settings: Any,
    name_of: Callable[[str], str],
    *,
    precision: Any = None,
    te_version: tuple[int, int] | None = None,
) -> Iterator[str]:
    """Yield one sentence for each problem of a run whose attention is Transformer Engine's.

    Args:
        settings: Megatron's arguments, a ``TransformerConfig``, or a model provider of
            Megatron-Bridge. Some lack some of the attributes.
        name_of: Returns how users write a setting, such as ``--window-size``.
        precision: The object with the FP8 settings; None if ``settings`` has them.
        te_version: The version of Transformer Engine; None to look it up.
    """
    yield from _precision_problems(precision or settings, name_of)
    yield from _rotary_problems(settings, name_of)
    if (getattr(settings, "context_parallel_size", 1) or 1) > 1:
        found = te_version or transformer_engine_version()
        yield from _context_parallel_problems(settings, name_of, found)


def width_problem(width: int, context_parallel_size: int) -> str | None:
    """Return a sentence if ``cu_seqlens`` is too wide for context parallelism, otherwise None.

    Args:
        width: Entries of ``cu_seqlens``; see ``RowShape``.
        context_parallel_size: Ranks that share a row.
    """
    most = MOST_OFFSETS_UNDER_CONTEXT_PARALLELISM
    if context_parallel_size == 1 or width <= most:
        return None
    return (
        f"rows have {width:,} entries of cu_seqlens (the documents of the fullest pack, and the "
        f"parts of a tail), but under context parallelism Transformer Engine takes at most "
        f"{most:,}: pack again with fewer documents in a row (--max-documents-per-pack) or with "
        f"shorter rows, or train without context parallelism"
    )


def _precision_problems(precision: Any, name_of: Callable[[str], str]) -> Iterator[str]:
    if not getattr(precision, "fp8", None):
        return
    for name in ("fp8_dot_product_attention", "fp8_multi_head_attention"):
        if getattr(precision, name, False):
            yield (
                f"{name_of(name)} is not supported with packing: no FP8 attention of Transformer "
                f"Engine takes packed rows (thd); leave it out, other layers stay in FP8"
            )


def _rotary_problems(settings: Any, name_of: Callable[[str], str]) -> Iterator[str]:
    """What Megatron's fused rotary embedding of packed rows drops without a warning."""
    is_fused = getattr(settings, "apply_rope_fusion", False)
    if not is_fused or getattr(settings, "multi_latent_attention", False):
        return
    fusion = name_of("apply_rope_fusion")
    cure = "--no-rope-fusion" if fusion.startswith("--") else f"{fusion} = False"
    is_yarn = getattr(settings, "position_embedding_type", None) == "yarn"
    if is_yarn and not fused_rotation_falls_back_to_scale():
        yield (
            f"{name_of('position_embedding_type')} is yarn and rotary embeddings are fused, but "
            f"Megatron's fused kernel leaves YaRN's scaling factor out on packed rows: give {cure}"
        )
    if getattr(settings, "rotary_interleaved", False) and not fused_rotation_interleaves():
        yield (
            f"{name_of('rotary_interleaved')} is given and rotary embeddings are fused, but "
            f"megatron-core before 0.17 does not interleave fused ones on packed rows: give {cure}"
        )


def _context_parallel_problems(
    settings: Any, name_of: Callable[[str], str], te_version: tuple[int, int] | None
) -> Iterator[str]:
    flag = name_of("cp_comm_type")
    kinds = _kinds_of_layers(settings)
    for kind in dict.fromkeys(kinds):
        first = _FIRST_RELEASES.get(kind)
        if first and te_version and te_version < first:
            yield (
                f"{flag} is {kind}, but Transformer Engine {_dotted(te_version)} supports it on "
                f"packed rows only from {_dotted(first)} on: install that release, or use p2p"
            )
    softmax = getattr(settings, "softmax_type", "vanilla") or "vanilla"
    if softmax == "learnable":
        size = settings.context_parallel_size
        yield (
            f"{name_of('softmax_type')} learnable cannot be trained with context parallelism: "
            f"Transformer Engine and Megatron make the gradient of its offsets {size} times too "
            f"large on {size} context-parallel ranks; give {name_of('context_parallel_size')} 1"
        )
        return  # the cure below does not help
    for kind, needed in zip(kinds, _windows_of_layers(settings, len(kinds)), strict=True):
        if softmax != "vanilla" and kind != "a2a":
            what = f"{name_of('softmax_type')} {softmax}"
        elif needed and kind in ("p2p", "a2a+p2p"):
            what = f"a sliding window ({name_of('window_size')})"
        else:
            continue
        yield (
            f"{what} is not supported with context parallelism and {flag} {kind} in Transformer "
            f"Engine: use {flag} a2a (Transformer Engine {_dotted(_FIRST_RELEASES['a2a'])} or "
            f"later)"
        )
        return  # one sentence for all layers


def _kinds_of_layers(settings: Any) -> list[str]:
    """Return the communication of each layer, or one entry if all layers have the same."""
    kinds = getattr(settings, "cp_comm_type", None) or "p2p"
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _windows_of_layers(settings: Any, num_kinds: int) -> list[bool]:
    """Whether each of the layers of ``_kinds_of_layers`` has a sliding window."""
    window = getattr(settings, "window_size", None)
    left = window[0] if isinstance(window, tuple | list) and window else window
    if not isinstance(left, int) or left < 0:
        return [False] * num_kinds
    skipped = getattr(settings, "window_attn_skip_freq", None)
    if num_kinds == 1:  # some layer has one
        return [skipped != 1 and (not isinstance(skipped, list) or any(skipped))]
    return [
        is_layer_window_attention((left, 0), skipped, number) for number in range(1, num_kinds + 1)
    ]


def _dotted(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"
