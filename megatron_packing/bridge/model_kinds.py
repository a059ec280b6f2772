# SPDX-License-Identifier: Apache-2.0
"""Kinds of models that packs cannot train: other inputs than tokens, and layers that leak."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

from megatron_packing.bridge.versions import bridge_version
from megatron_packing.errors import InputError
from megatron_packing.megatron.versions import core_version

# Words in the names of settings that only models with other inputs than one row of tokens have.
_OTHER_INPUTS = re.compile(
    r"(?:^|_)(image|images|vision|visual|pixel|audio|video|sound|speech|thinker|multimodal"
    r"|modality|modalities|encoder)(?:_|$)"
)
# Of text models: whether the layers are those of a larger model.
_OF_TEXT_MODELS = {"is_vision_language"}

# The first release whose step makes seq_idx, which tells Mamba layers where documents begin
# (Megatron-Bridge#3484), and the first megatron-core that no longer makes it in the layer.
_FIRST_WITH_SEQ_IDX = (0, 5)
_FIRST_CORE_WITHOUT_SEQ_IDX = (0, 17)


def check_inputs(model: Any) -> None:
    """Refuse models of images, audio and other inputs, which packs do not hold.

    Bridge builds such a model from a class of settings of its own; its settings say so by name.

    Raises:
        InputError: Names the class and such a setting.
    """
    names = _setting_names(model) - _OF_TEXT_MODELS
    if getattr(model, "is_vision_language", False):
        names |= {"is_vision_language"}
    telling = sorted(name for name in names if _OTHER_INPUTS.search(name))
    if telling:
        raise InputError(
            f"cfg.model is {type(model).__name__}, whose model has other inputs than one row of "
            f"tokens (it has the setting {telling[0]}), but packs hold tokens alone, so images, "
            f"audio and the like would be left out; take the recipe of a text model"
        )


def _setting_names(model: Any) -> set[str]:
    """Settings that the model has beside those of every transformer of Megatron."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    every_model_has = {field.name for field in fields(TransformerConfig)}
    parts = [model, getattr(model, "transformer", None)]
    names = {field.name for part in parts if is_dataclass(part) for field in fields(part)}
    return names - every_model_has


def layer_pattern(model: Any) -> str:
    """The symbols of a hybrid model's layers, ``M`` for Mamba; "" for a model of one kind."""
    for name in ("hybrid_layer_pattern", "hybrid_override_pattern"):
        pattern = getattr(model, name, None)
        if pattern:
            return str(pattern)
    return ""


def has_mamba_layers(model: Any) -> bool:
    """Whether state runs along the row in some layers, which must stop where a document does."""
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
    """Whether Bridge makes seq_idx for this model only if ``is_hybrid_model`` is set."""
    return has_mamba_layers(model) and bridge_version() >= _FIRST_WITH_SEQ_IDX


def check_recurrent_layers(model: Any) -> None:
    """Refuse Mamba and gated delta net layers where documents of a row would leak into others.

    Raises:
        InputError: The installed releases do not tell these layers where documents begin.
    """
    version, core = bridge_version(), core_version()
    if (
        has_mamba_layers(model)
        and version < _FIRST_WITH_SEQ_IDX
        and core >= _FIRST_CORE_WITHOUT_SEQ_IDX
    ):
        raise InputError(
            f"cfg.model has Mamba layers, but Megatron-Bridge {version[0]}.{version[1]} does not "
            f"tell them where documents begin, so their state would run from one document into "
            f"the next; use Megatron-Bridge 0.5 or later"
        )
    has_delta_net = getattr(
        model, "experimental_attention_variant", None
    ) == "gated_delta_net" or "G" in layer_pattern(model)
    if has_delta_net and core < _FIRST_CORE_WITHOUT_SEQ_IDX:
        raise InputError(
            f"cfg.model has gated delta net layers, which megatron-core {core[0]}.{core[1]} does "
            f"not compute over packed rows; use Megatron-Bridge 0.5 or later"
        )


def check_hybrid_flag(model: Any) -> None:
    """Refuse Mamba layers without the flag by which Bridge tells them where documents begin.

    Raises:
        InputError: ``is_hybrid_model`` is not set.
    """
    if needs_hybrid_flag(model) and not getattr(model, "is_hybrid_model", False):
        raise InputError(
            "cfg.model has Mamba layers and cfg.model.is_hybrid_model is False, so Bridge does not "
            "tell these layers where documents begin; set it to True"
        )
