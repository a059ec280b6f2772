# SPDX-License-Identifier: Apache-2.0
"""Refuses models with inputs other than tokens, and layers that mix documents of a row."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

from megatron_packing.bridge.versions import bridge_version, passes_seq_idx
from megatron_packing.errors import InputError
from megatron_packing.megatron.versions import (
    core_version,
    gated_delta_net_takes_packed_rows,
    mamba_layers_compute_seq_idx,
)

# Words in setting names that only models with inputs other than tokens have.
_OTHER_INPUTS = re.compile(
    r"(?:^|_)(image|images|vision|visual|pixel|audio|video|sound|speech|thinker|multimodal"
    r"|modality|modalities|encoder)(?:_|$)"
)
# Text models have this too: it says that their layers belong to a larger model.
_OF_TEXT_MODELS = {"is_vision_language"}


def check_inputs(model: Any) -> None:
    """Refuse models with images, audio or other inputs, which packs do not hold.

    Bridge has a settings class for each such model; the names of its settings identify it.

    Raises:
        InputError: Names the class and one of these settings.
    """
    names = _setting_names(model) - _OF_TEXT_MODELS
    if getattr(model, "is_vision_language", False):
        names |= {"is_vision_language"}
    telling = sorted(name for name in names if _OTHER_INPUTS.search(name))
    if telling:
        raise InputError(
            f"cfg.model is {type(model).__name__}, a model with inputs other than tokens "
            f"(it has the setting {telling[0]}), but packs hold only tokens, so images and audio "
            f"would be left out; use the recipe of a text model"
        )


def _setting_names(model: Any) -> set[str]:
    """Return the model's settings that Megatron's TransformerConfig does not have."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    every_model_has = {field.name for field in fields(TransformerConfig)}
    parts = [model, getattr(model, "transformer", None)]
    names = {field.name for part in parts if is_dataclass(part) for field in fields(part)}
    return names - every_model_has


def layer_pattern(model: Any) -> str:
    """Return the layer symbols of a hybrid model (``M``: Mamba), or "" for other models."""
    for name in ("hybrid_layer_pattern", "hybrid_override_pattern"):
        pattern = getattr(model, name, None)
        if pattern:
            return str(pattern)
    return ""


def has_mamba_layers(model: Any) -> bool:
    """Whether the model has Mamba layers, whose state must be reset at document boundaries."""
    pattern = layer_pattern(model)
    if pattern:
        return "M" in pattern
    names = {base.__name__ for base in type(model).__mro__}
    return bool(
        getattr(model, "is_hybrid_model", False)
        or names
        & {
            "MambaModelProvider",
            "HybridModelProvider",
            "HybridModelConfig",
            "FalconH1ModelProvider",
            "FalconH1Config",
        }
    )


def needs_hybrid_flag(model: Any) -> bool:
    """Whether Bridge passes ``seq_idx`` to this model only if ``is_hybrid_model`` is set."""
    return has_mamba_layers(model) and passes_seq_idx()


def check_recurrent_layers(model: Any) -> None:
    """Refuse Mamba and gated delta net layers if their state would cross document boundaries.

    Raises:
        InputError: The installed releases do not pass document boundaries to these layers.
    """
    if has_mamba_layers(model) and not (passes_seq_idx() or mamba_layers_compute_seq_idx()):
        version = bridge_version()
        raise InputError(
            f"cfg.model has Mamba layers, but Megatron-Bridge {version[0]}.{version[1]} does not "
            f"pass them document boundaries, so their state would leak from one document into "
            f"the next; use Megatron-Bridge 0.5 or later"
        )
    has_delta_net = getattr(
        model, "experimental_attention_variant", None
    ) == "gated_delta_net" or "G" in layer_pattern(model)
    if has_delta_net and not gated_delta_net_takes_packed_rows():
        core = core_version()
        raise InputError(
            f"cfg.model has gated delta net layers, which megatron-core {core[0]}.{core[1]} does "
            f"not support on packed rows; use Megatron-Bridge 0.5 or later"
        )


def check_hybrid_flag(model: Any) -> None:
    """Refuse Mamba layers without the flag that makes Bridge pass them document boundaries.

    Raises:
        InputError: ``is_hybrid_model`` is not set.
    """
    if needs_hybrid_flag(model) and not getattr(model, "is_hybrid_model", False):
        raise InputError(
            "cfg.model has Mamba layers and cfg.model.is_hybrid_model is False, so Bridge does not "
            "pass these layers document boundaries; set it to True"
        )
