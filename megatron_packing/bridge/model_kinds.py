# SPDX-License-Identifier: Apache-2.0
"""Refuses models with inputs other than tokens, and layers that mix documents of a row."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

from megatron_packing.bridge.versions import (
    bridge_version,
    passes_seq_idx,
    takes_padding_mask,
)
from megatron_packing.errors import InputError
from megatron_packing.megatron.layer_pattern import layer_pattern
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


def is_hybrid(model: Any) -> bool:
    """Whether Bridge builds the model as a HybridModel, of whatever layers."""
    return bool(
        layer_pattern(model)
        or getattr(model, "is_hybrid_model", False)
        or _class_names(model) & {"MambaModelProvider", "HybridModelProvider", "HybridModelConfig"}
    )


def has_mamba_layers(model: Any) -> bool:
    """Whether the model has Mamba layers, whose state must be reset at document boundaries."""
    pattern = layer_pattern(model)
    return "M" in pattern if pattern else is_hybrid(model)


def _class_names(model: Any) -> set[str]:
    return {base.__name__ for base in type(model).__mro__}


def hybrid_settings(model: Any) -> dict[str, tuple[bool, str]]:
    """Return the settings that a hybrid model needs on packed rows: each value, and the reason.

    ``is_hybrid_model`` decides in ``megatron/bridge/training/gpt_step.py`` whether Mamba layers get
    document boundaries, and from 0.7 on whether a padding mask is cut under sequence parallelism.
    """
    needed: dict[str, tuple[bool, str]] = {}
    has_mamba = has_mamba_layers(model)
    if has_mamba and passes_seq_idx():
        why = "otherwise Bridge does not pass Mamba layers document boundaries"
        needed["is_hybrid_model"] = True, why
    elif is_hybrid(model) and takes_padding_mask():
        why = "otherwise Bridge does not cut padding masks for sequence parallelism"
        needed["is_hybrid_model"] = True, why
    if has_mamba:
        why = "Megatron's other code for Mamba layers takes no packed rows"
        needed["use_mamba_mem_eff_path"] = True, why
    return needed


def check_recurrent_layers(model: Any) -> None:
    """Refuse Mamba and gated delta net layers if their state would cross document boundaries.

    Raises:
        InputError: The installed releases do not pass document boundaries to these layers.
    """
    if _class_names(model) & {"FalconH1ModelProvider", "FalconH1Config"}:
        raise InputError(
            f"cfg.model is {type(model).__name__}, but Megatron-Bridge's FalconH1Model takes no "
            f"document boundaries, so packed rows end with an error at the first step; use another "
            f"model"
        )
    if has_mamba_layers(model) and not (passes_seq_idx() or mamba_layers_compute_seq_idx()):
        version = bridge_version()
        raise InputError(
            f"cfg.model has Mamba layers, but Megatron-Bridge {version[0]}.{version[1]} does not "
            f"pass them document boundaries, so their state would leak from one document into "
            f"the next; use Megatron-Bridge 0.5 or later"
        )
    has_delta_net = getattr(
        model, "experimental_attention_variant", None
    ) == "gated_delta_net" or "G" in (layer_pattern(model) or "")
    if has_delta_net and not gated_delta_net_takes_packed_rows():
        core = core_version()
        raise InputError(
            f"cfg.model has gated delta net layers, which megatron-core {core[0]}.{core[1]} does "
            f"not support on packed rows; use Megatron-Bridge 0.5 or later"
        )


def check_hybrid_settings(model: Any) -> None:
    """Refuse a hybrid model without the settings that it needs on packed rows.

    Raises:
        InputError: Names the setting.
    """
    for name, (value, why) in hybrid_settings(model).items():
        if bool(getattr(model, name, False)) is not value:
            raise InputError(
                f"cfg.model.{name} is {getattr(model, name, False)} and cfg.model is a hybrid "
                f"model, which needs {value} on packed rows ({why}); set it to {value}"
            )
