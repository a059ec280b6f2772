# SPDX-License-Identifier: Apache-2.0
"""Builds the Hugging Face model that is checked."""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch

from megatron_packing.errors import InputError, missing

try:
    import transformers
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
    )
    from transformers.utils import logging
except ModuleNotFoundError as error:
    raise missing("check-model", str(error.name), "probe") from error

from megatron_packing.isolation.small_config import shrink

_LEAST_LAYERS = (4, 8, 12)
"""Numbers of layers that are tried; some models cannot be built with few."""

_MOST_PARAMETERS = 300_000_000
"""Of a small model: so many are checked within two minutes."""


@dataclass(frozen=True, slots=True)
class CausalModel:
    """A causal language model that can be built."""

    given: str
    """What the user gave."""
    config: Any
    weights: Path | None
    """The folder that has its weights; None: they are random."""

    def build(self, attention: str, device: str) -> Any:
        """Build it in float32, in training mode and without anything random.

        Flash attention's kernels take half precision alone, so a GPU gets bfloat16 for them.

        Args:
            attention: An attention implementation of transformers.
            device: Torch's name of the device.

        Raises:
            ValueError: The model does not have this attention implementation.
        """
        torch.manual_seed(1)
        needs_half = "flash" in attention and torch.device(device).type != "cpu"
        settings: dict[str, Any] = {
            "attn_implementation": attention,
            "dtype": torch.bfloat16 if needs_half else torch.float32,
        }
        if self.weights is not None:
            model = AutoModelForCausalLM.from_pretrained(
                self.weights, local_files_only=True, **settings
            )
        else:
            model = AutoModelForCausalLM.from_config(copy.deepcopy(self.config), **settings)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            for name, value in vars(module).items():
                if "dropout" in name and isinstance(value, float):
                    vars(module)[name] = 0.0
        return model.to(device).train()


def find_model(given: str, *, as_is: bool) -> CausalModel:
    """Find what a user names, and make it small.

    Args:
        given: A folder with ``config.json``, a model type such as "qwen3_next", or the class of a
            configuration.
        as_is: Whether it keeps its size, and its weights where the folder has them.

    Raises:
        InputError: It is none of these, or no causal language model, or cannot be built.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = _find_config(given)
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{given} is an encoder-decoder; give a causal language model")
    config = config.get_text_config(decoder=True)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"{given} has a {type(config).__name__}, of which transformers has no causal language "
            f"model; give one such as llama or qwen3_next"
        )
    if as_is:
        folder = Path(given)
        has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
        return CausalModel(given, config, folder if has_weights else None)
    return CausalModel(given, _shrunk(given, config), None)


def _find_config(given: str) -> Any:
    if Path(given).exists():
        try:
            return AutoConfig.from_pretrained(given, local_files_only=True)
        except Exception as error:
            raise InputError(
                f"transformers reads no configuration from {given} ({_first_line(error)}); give a "
                f"folder with a config.json of a model that transformers has a class for"
            ) from error
    if given in CONFIG_MAPPING:
        return AutoConfig.for_model(given)
    found = getattr(transformers, given, None) if given.endswith("Config") else None
    if isinstance(found, type) and issubclass(found, transformers.PretrainedConfig):
        return found()
    close = difflib.get_close_matches(given, list(CONFIG_MAPPING), 1)
    raise InputError(
        f"{given} is no folder, and no model type of transformers {transformers.__version__}"
        + (f"; did you mean {close[0]}?" if close else "; give one such as llama or qwen3_next")
    )


def _shrunk(given: str, config: Any) -> Any:
    """Return a small configuration of which a model can be built."""
    problem = None
    for least_layers in _LEAST_LAYERS:
        try:
            small = shrink(config, least_layers)
            _try_to_build(small)
            return small
        except Exception as error:  # each class raises its own
            problem = problem or error
    raise InputError(
        f"{given} cannot be built small ({_first_line(problem)}); give the folder of a "
        f"configuration with small sizes, and --as-is"
    )


def _try_to_build(config: Any) -> None:
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    except NotImplementedError:  # it reads its weights as it is built
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    size = sum(one.numel() for one in model.parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"it still has {size:,} parameters")


def _first_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200]
