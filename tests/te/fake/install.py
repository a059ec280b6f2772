# SPDX-License-Identifier: Apache-2.0
"""Makes Transformer Engine's own Python importable on a machine without CUDA.

What has a stand-in: its binding and library, the compute capability, cuDNN's version, and the
fused attention kernel. CUDA itself has those of ``megatron/cuda_stand_ins.py``. Everything else is
Transformer Engine's code, from its pure wheel: layers, selection of backends, context parallelism.
"""

from __future__ import annotations

import copy
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from tests.te.fake.attention_kernel import by_name, fused_attn_bwd, fused_attn_fwd
from tests.te.fake.binding import Binding, make_binding
from tests.te.fake.calls import MACHINE

_PACKAGE = "transformer_engine"
_HALF_ONLY = "x.dtype in [torch.float16, torch.bfloat16]"


class _Prepared(importlib.abc.Loader):
    """A loader of a module that exists already."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def create_module(self, _: Any) -> Any:
        return self.module

    def exec_module(self, module: Any) -> None:
        """The module is complete."""


class _Patches(importlib.abc.MetaPathFinder):
    """Changes modules of Transformer Engine as they are imported.

    Fused attention asserts half precision; here it also takes float32, for exact comparisons.
    """

    def __init__(self, changes: dict[str, Callable[[Any], None]]) -> None:
        self.changes = changes

    def find_spec(self, name: str, path: Any, *_: Any) -> Any:
        if name not in self.changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader

        def exec_module(module: Any) -> None:
            text = loader.get_source(name)
            text = text.replace(_HALF_ONLY, _HALF_ONLY[:-1] + ", torch.float32]")
            exec(compile(text, loader.get_filename(name), "exec"), module.__dict__)
            self.changes[name](module)

        loader.exec_module = exec_module
        return spec


def install(folder: Path) -> None:
    """Put the stand-ins in place, for an unpacked wheel, before megatron.core is imported."""
    os.environ["NVTE_PROJECT_BUILDING"] = "1"  # so that it loads no library
    os.environ.setdefault("NVTE_FRAMEWORK", "pytorch")
    sys.path.insert(0, str(folder))
    numbers = next(folder.glob(f"{_PACKAGE}-*.dist-info")).name.split("-")[1].split(".")
    release = (int(numbers[0]), int(numbers[1]))
    binding = make_binding(release)
    sys.modules[binding.__name__] = binding
    needs_onnx = f"{_PACKAGE}.pytorch.onnx_extensions"
    sys.modules[needs_onnx] = Binding(needs_onnx)
    if release < (2, 3):
        _let_it_find(binding, folder)
    attention = f"{_PACKAGE}.pytorch.attention"
    if release < (2, 4):
        attention = f"{_PACKAGE}.pytorch"
    changes = {
        f"{_PACKAGE}.common": _load_nothing,
        f"{_PACKAGE}.pytorch.utils": _pretend_machine,
        f"{_PACKAGE}.pytorch.cpp_extensions.fused_attn": _replace_kernel,
        f"{attention}.dot_product_attention.backends": lambda _: None,
        f"{attention}.dot_product_attention.context_parallel": _gather_instead_of_ring,
        f"{_PACKAGE}.pytorch.attention": _gather_instead_of_ring,
    }
    sys.meta_path.insert(0, _Patches(changes))
    _redirect_tensors_outside_modes()


def take_float32_for_half_precision() -> None:
    """Let backend selection take float32 for bfloat16, so that losses can be compared exactly."""
    utils = attention_utils()
    choose = utils.get_attention_backend

    def get_attention_backend(parameters: Any = None) -> Any:
        parameters = copy.copy(parameters)
        parameters.qkv_dtype = torch.bfloat16
        return choose(parameters)

    utils.get_attention_backend = get_attention_backend


def pretend_flash_attention(is_installed: bool) -> None:
    """Let backend selection find flash-attn 2.8.3, or none. Its kernels have no stand-ins."""
    flash = attention_utils().FlashAttentionUtils
    flash.is_installed = is_installed
    flash.version = Version("2.8.3" if is_installed else "0")
    for name in dir(flash):
        if name.startswith("v2_"):
            setattr(flash, name, is_installed)


def attention_utils() -> Any:
    """Return the module that selects backends; releases differ in where it is."""
    for parent in (f"{_PACKAGE}.pytorch.attention", f"{_PACKAGE}.pytorch"):
        name = f"{parent}.dot_product_attention.utils"
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError("Transformer Engine has no dot_product_attention.utils")


def _load_nothing(module: Any) -> None:
    module.load_framework_extension = lambda _: None


def _pretend_machine(module: Any) -> None:
    module.get_device_compute_capability = lambda *_: MACHINE.capability
    module.get_cudnn_version = lambda *_: MACHINE.cudnn


def _replace_kernel(module: Any) -> None:
    module.fused_attn_fwd = by_name(module.fused_attn_fwd, fused_attn_fwd)
    module.fused_attn_bwd = by_name(module.fused_attn_bwd, fused_attn_bwd)


def _gather_instead_of_ring(module: Any) -> None:
    """Exchange the ring's tensors by all-gather: gloo hangs in its sends of the backward pass."""
    if not hasattr(module, "flash_attn_p2p_communicate"):
        return

    def communicate(rank, send, destination, receive, source, group, is_batched):
        del rank, destination, is_batched
        group = group or torch.distributed.group.WORLD
        parts = [torch.empty_like(send) for _ in range(group.size())]
        torch.distributed.all_gather(parts, send.contiguous(), group=group)
        receive.copy_(parts[torch.distributed.get_group_rank(group, source)])
        return []

    module.flash_attn_p2p_communicate = communicate


def _let_it_find(binding: Any, folder: Path) -> None:
    """Before 2.3 it looks for the binding's file itself, then loads it by its path."""
    (folder / f"{binding.__name__}.stand_in.so").touch()
    find = importlib.util.spec_from_file_location

    def spec_from_file_location(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == binding.__name__:
            return importlib.machinery.ModuleSpec(name, _Prepared(binding))
        return find(name, *args, **kwargs)

    importlib.util.spec_from_file_location = spec_from_file_location


def _redirect_tensors_outside_modes() -> None:
    """Redirect CUDA tensors where no torch function mode is active, as in backward passes."""
    torch.Tensor.is_cuda = property(lambda _: True)
    torch.Tensor.cuda = lambda self, *_, **__: self
    move = torch.Tensor.to

    def is_cuda(device: Any) -> bool:
        if isinstance(device, int) and not isinstance(device, bool):
            return True
        return isinstance(device, str | torch.device) and "cuda" in str(device)

    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        moved = ["cpu" if not isinstance(arg, int) and is_cuda(arg) else arg for arg in args]
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        return move(self, *moved, **kwargs)

    def on_cpu(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def call(*args: Any, **kwargs: Any) -> Any:
            if is_cuda(kwargs.get("device")):
                kwargs["device"] = "cpu"
            kwargs.pop("pin_memory", None)
            return make(*args, **kwargs)

        return call

    torch.Tensor.to = to
    for name in [
        "empty",
        "zeros",
        "ones",
        "full",
        "tensor",
        "arange",
        "empty_like",
        "zeros_like",
        "ones_like",
    ]:
        setattr(torch, name, on_cpu(getattr(torch, name)))
