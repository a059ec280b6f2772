# SPDX-License-Identifier: Apache-2.0
"""Runs Triton kernels on a machine without a GPU, by Triton's own interpreter.

The interpreter executes each program of a kernel with numpy. What has a stand-in: the driver, which
says what GPU there is, and autotuning, which takes one configuration instead of timing them all.
"""

from __future__ import annotations

import builtins
import importlib
import os
from collections.abc import Iterator
from math import prod
from types import SimpleNamespace
from typing import Any


def install() -> None:
    """Put the stand-ins in place, before a module with kernels is imported."""
    os.environ["TRITON_INTERPRET"] = "1"
    import triton
    from triton.runtime import autotuner

    triton.runtime.driver.set_active(_Driver())
    create = autotuner.Autotuner.__init__

    def with_one_configuration(
        self: Any, fn: Any, names: Any, configs: Any, *rest: Any, **more: Any
    ):
        create(self, fn, names, sorted(configs, key=_block, reverse=True)[:1], *rest, **more)

    autotuner.Autotuner.__init__ = with_one_configuration


def let_loops_count_in_tensors(name: str) -> None:
    """Give the kernels of a module loop counters that are tensors, as compiled kernels have.

    The interpreter's loops count in Python's integers, which lack ``to``.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    def tensors(*bounds: Any) -> Iterator[Any]:
        for number in builtins.range(*bounds):
            yield tl.tensor(TensorHandle(np.array([number], np.int32), tl.int32), tl.int32)

    vars(importlib.import_module(name))["range"] = tensors


def _block(configuration: Any) -> int:
    """Return the size of a configuration's blocks: the interpreter is fastest with large ones."""
    return prod(size for size in configuration.kwargs.values() if type(size) is int)


class _Driver:
    """Triton's driver of an H100 on which nothing runs."""

    utils = SimpleNamespace(
        get_device_properties=lambda _: {
            "multiprocessor_count": 8,
            "max_shared_mem": 232448,
            "warpSize": 32,
            "max_num_regs": 65536,
        }
    )

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        import torch

        return torch.cuda
