# SPDX-License-Identifier: Apache-2.0
"""Finds the model of a recipe of Megatron-Bridge, and checks it small."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from megatron_packing.errors import InputError
from megatron_packing.isolation.result import ModelCheck
from megatron_packing.megatron.small_check import choose_device, quietly, require_trainer


def check_recipe(name: str, device: str | None = None) -> ModelCheck:
    """Check the model of a recipe.

    Args:
        name: The dotted name of a function that makes a recipe, or of a model provider: an object,
            a class or a function.
        device: "cpu" or "cuda"; None: a GPU where there is one.

    Raises:
        InputError: There is no such recipe, or its model cannot be checked here.
    """
    on_cpu = choose_device(device)
    with quietly():
        import megatron_packing.needs.megatron_bridge  # noqa: F401  # or what is missing is said

        require_trainer()
        try:
            import megatron.bridge  # noqa: F401
        except Exception as error:  # it imports packages that need a GPU
            raise InputError(
                f"Megatron-Bridge cannot be imported here ({_said(error)}); give the model's "
                f"--megatron-flags, or run check-model where recipes run"
            ) from error
        from megatron_packing.bridge import small_provider

        model = _model_of(name, _made(name))
        return small_provider.check_provider(model, name, on_cpu=on_cpu)


def _made(name: str) -> Any:
    """Return what a dotted name is, called where it is a function or a class."""
    module, _, attribute = name.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a recipe's module imports anything
        raise InputError(
            f"--bridge-recipe {name} cannot be imported ({_said(error)}); give a dotted name such "
            f"as megatron.bridge.recipes.llama.llama3_8b_sft_config"
        ) from error
    if not isinstance(found, Callable):  # type: ignore[arg-type]
        return found
    try:
        return found()
    except Exception as error:  # most recipes look into the hub of Hugging Face
        raise InputError(
            f"--bridge-recipe {name} cannot be made ({_said(error)}); recipes read the model's "
            f"configuration from Hugging Face's hub or its cache, and are called without arguments"
        ) from error


def _model_of(name: str, made: Any) -> Any:
    """Return the provider of a recipe, or the provider itself."""
    model = getattr(made, "model", made)
    if not callable(getattr(model, "provide", None)):
        raise InputError(
            f"--bridge-recipe {name} gives a {type(model).__name__}, which is neither a recipe "
            f"with a model provider nor a provider; give the name of a recipe's function"
        )
    return model


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
