"""Lets Megatron-Bridge's own code be imported on a machine without GPUs.

Bridge imports packages at its start that are built for CUDA (Transformer Engine, Triton) or that
its data path does not use. Where one is not installed it gets a stand-in: modules whose every name
is an empty class. What the tests run is Bridge's; nothing of what they look at is a stand-in.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from importlib.metadata import distribution
from typing import Any

_PACKAGES = (
    "megatron.energon",
    "modelopt",
    "tensorboard",
    "transformer_engine",
    "transformer_engine_torch",
    "triton",
)


class _Nothing(type):
    """The class of empty classes, which have whatever is asked of them."""

    def __getattr__(cls, name: str) -> Any:
        return _empty_class(name)

    def __getitem__(cls, key: Any) -> Any:
        return cls


def _empty_class(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Nothing(name, (), {"__init__": lambda *_, **__: None})


class _Module(types.ModuleType):
    __version__ = "2.10.0"

    def __getattr__(self, name: str) -> Any:
        return _empty_class(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name: str, *_: Any) -> Any:
        if any(f"{name}.".startswith(f"{package}.") for package in self.packages):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def prepare_bridge() -> None:
    """Put stand-ins for absent packages in place; Megatron's own modules are imported before."""
    sys.meta_path.append(
        _Finder(tuple(package for package in _PACKAGES if not _is_installed(package)))
    )
    # Its recipes import those of diffusion models, which need more packages: each recipe is
    # imported by itself.
    import megatron.bridge

    recipes = types.ModuleType("megatron.bridge.recipes")
    recipes.__path__ = [f"{distribution('megatron-bridge').locate_file('megatron/bridge/recipes')}"]
    sys.modules[recipes.__name__] = megatron.bridge.recipes = recipes
