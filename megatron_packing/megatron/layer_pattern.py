# SPDX-License-Identifier: Apache-2.0
"""Reads the pattern of a hybrid model's layers, such as ``M*-|M*-``.

Each symbol is a layer (``hybrid_layer_allocation.py`` of megatron-core), ``|`` ends a pipeline
stage, and layers of multi-token prediction follow ``/``.
"""

from __future__ import annotations

from typing import Any

_ATTENTION = "*+"


def layer_pattern(settings: Any) -> str | None:
    """Return the pattern of a hybrid model's layers; None for other models.

    Args:
        settings: Megatron's arguments, a model, a ``TransformerConfig``, or a model provider of
            Megatron-Bridge. Some lack some of the attributes.
    """
    for name in ("hybrid_layer_pattern", "hybrid_override_pattern"):
        pattern = getattr(settings, name, None)
        if isinstance(pattern, str) and pattern:
            return pattern
    return None


def layer_symbols(pattern: str) -> str:
    """Return one symbol for each layer: without stages and without multi-token prediction."""
    return pattern.split("/")[0].replace("|", "")


def all_symbols(pattern: str) -> str:
    """Return one symbol for each layer, those of multi-token prediction among them."""
    return pattern.replace("/", "").replace("|", "")


def multi_token_symbols(pattern: str) -> str:
    """Return one symbol for each layer of multi-token prediction, depth after depth."""
    return "".join(pattern.split("/")[1:])


def counted_symbols(pattern: str) -> str:
    """Return the layers of a pattern as operations are counted: all attention as ordinary."""
    return all_symbols(pattern).translate(str.maketrans("+DE", "**-"))


def attention_layers(settings: Any) -> list[int]:
    """Return the numbers of the layers that have attention, from 1.

    Args:
        settings: As for ``layer_pattern``.
    """
    pattern = layer_pattern(settings)
    if pattern is None:
        return list(range(1, (getattr(settings, "num_layers", None) or 1) + 1))
    return [n for n, symbol in enumerate(layer_symbols(pattern), 1) if symbol in _ATTENTION]
