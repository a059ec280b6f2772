# SPDX-License-Identifier: Apache-2.0
"""Lets code that asks for CUDA run on a machine without it: tests, demonstrations, small checks.

Every tensor meant for a CUDA device is made on the CPU, streams and events do nothing, and memory
statistics are zero. Numbers are computed as always. Put the stand-ins in place before anything of
Megatron is imported. Training on GPUs never comes here.
"""

from __future__ import annotations

import collections
import contextlib
import os
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


class CudaTensorsOnCpu(TorchFunctionMode):
    """Redirects what asks for a CUDA device to the CPU."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch with CPU in place of CUDA."""
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.is_cuda.__get__:
            return True
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.")
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if getattr(func, "__name__", "") == "all_to_all_single":
            # Megatron makes lists of the sizes when it moves them from a CUDA device.
            args = args[:2] + tuple(_as_list(value) for value in args[2:])
            kwargs = {name: _as_list(value) for name, value in kwargs.items()}
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], CPU, *args[2:])
        return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    if isinstance(device, int) and not isinstance(device, bool):
        return True
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def _as_list(value: Any) -> Any:
    return value.tolist() if torch.is_tensor(value) and value.dim() == 1 else value


class _Event:
    """A CUDA event that is recorded at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.time = 0.0

    def record(self, *_: Any) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, later: _Event) -> float:
        return (later.time - self.time) * 1e3

    def query(self) -> bool:
        return True

    def wait(self, *_: Any) -> None:
        """Nothing is pending."""

    synchronize = wait


class _Stream(contextlib.nullcontext):
    """A CUDA stream on which everything is done."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def record_event(self, *_: Any) -> _Event:
        return _Event()

    def query(self) -> bool:
        return True

    def wait_stream(self, *_: Any) -> None:
        """Nothing is pending."""

    wait_event = synchronize = wait_stream


def _returning(value: Any) -> Callable[..., Any]:
    """Make a function of its own each time: TorchDynamo tells functions apart by identity."""
    return lambda *_, **__: value


def run_cuda_code_on_cpu() -> None:
    """Put the stand-ins in place, for the rest of this process; do nothing where CUDA works."""
    if torch.cuda.is_available():
        return
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # it does not trace what is put in place
    generator = torch.Generator()  # apart from the CPU's, or initialization would be disturbed

    stand_ins: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        "current_stream": lambda *_: _Stream(),
        "default_stream": lambda *_: _Stream(),
        "Stream": _Stream,
        "Event": _Event,
        "stream": lambda *_: contextlib.nullcontext(),
        "device": lambda *_: contextlib.nullcontext(),
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "cpu",
        "get_device_properties": lambda *_: types.SimpleNamespace(
            name="cpu", major=9, minor=0, total_memory=1 << 34, multi_processor_count=1
        ),
        "memory_stats": lambda *_: collections.defaultdict(int),
        "manual_seed": lambda seed: generator.manual_seed(seed) and None,
        "get_rng_state": lambda *_, **__: generator.get_state(),
        "set_rng_state": lambda state, *_, **__: generator.set_state(state) and None,
        "default_generators": (generator,) * 8,
        "is_current_stream_capturing": lambda: False,
        "_lazy_call": lambda function, **_: function(),
    }
    for name in ("set_device", "synchronize", "empty_cache", "manual_seed_all", "_lazy_init"):
        stand_ins[name] = _returning(None)
    stand_ins["reset_peak_memory_stats"] = _returning(None)
    for name in ("current_device", "memory_allocated", "max_memory_allocated"):
        stand_ins[name] = _returning(0)
    for name in ("memory_reserved", "max_memory_reserved"):
        stand_ins[name] = _returning(0)
    for name in ("utilization", "temperature", "power_draw", "clock_rate"):
        stand_ins[name] = _returning(0)
    for name, stand_in in stand_ins.items():
        setattr(torch.cuda, name, stand_in)
    torch.cuda.random.get_rng_state = torch.cuda.get_rng_state
    torch.cuda.random.set_rng_state = torch.cuda.set_rng_state
    torch.cuda.nvtx.range_push = _returning(None)
    torch.cuda.nvtx.range_pop = _returning(None)
    torch.accelerator.is_available = _returning(False)
    torch.optim.Optimizer._accelerator_graph_capture_health_check = _returning(None)
    CudaTensorsOnCpu().__enter__()

    # The wheel has the compiled helpers but not the Makefile that the trainer runs to make them.
    import megatron.core.datasets.utils

    megatron.core.datasets.utils.compile_helpers = _returning(None)
