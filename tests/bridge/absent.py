# SPDX-License-Identifier: Apache-2.0
"""Lets the own code of Megatron-Bridge and NeMo be imported on a machine without GPUs.

They import packages at their start that are built for CUDA (Transformer Engine, Triton) or that
their data paths do not use. Where one is not installed it gets a stand-in: modules whose every name
is an empty class. What the tests run is theirs; nothing of what they look at is a stand-in.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from importlib.metadata import distribution
from typing import Any

_FOR_BRIDGE = (
    "megatron.energon",
    "modelopt",
    "nvidia_resiliency_ext",
    "tensorboard",
    "transformer_engine",
    "transformer_engine_torch",
    "triton",
)
# NeMo's data file, and not the packages around it, which import all of NeMo.
_NEMO_DATA = "nemo.collections.llm.gpt.data"
_FOR_NEMO = ("nemo.collections.common", "nemo.core", "nemo.lightning", "nemo.utils")


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
        return package in sys.modules or importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _stand_in_for(packages: tuple[str, ...]) -> None:
    sys.meta_path.insert(0, _Finder(packages))


def _skip_start_of(package: str, distribution_name: str) -> None:
    """Let modules of a package be imported without what its ``__init__`` imports."""
    module = types.ModuleType(package)
    parent, _, name = package.rpartition(".")
    if parent:  # which may be of a source tree
        module.__path__ = [f"{folder}/{name}" for folder in sys.modules[parent].__path__]
    else:
        folder = distribution(distribution_name).locate_file(package.replace(".", "/"))
        module.__path__ = [f"{folder}"]
    sys.modules[package] = module
    if parent:
        setattr(sys.modules[parent], name, module)


def prepare_bridge() -> None:
    """Make ready for ``import megatron.bridge``; Megatron's own modules are imported before."""
    _stand_in_for(tuple(package for package in _FOR_BRIDGE if not _is_installed(package)))
    import megatron.bridge  # noqa: F401

    # Its recipes import those of diffusion models, which need more packages.
    _skip_start_of("megatron.bridge.recipes", "megatron-bridge")


def prepare_nemo() -> None:
    """Make ready for ``import nemo.collections.llm.gpt.data.core``."""
    _stand_in_for(_FOR_NEMO)
    names = _NEMO_DATA.split(".")
    for count in range(1, len(names) + 1):
        _skip_start_of(".".join(names[:count]), "nemo_toolkit")
