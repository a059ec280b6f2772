# SPDX-License-Identifier: Apache-2.0
"""Runs a Megatron training script on a machine without CUDA, for tests and demonstrations.

    torchrun --nproc-per-node N examples/cpu_trainer.py SCRIPT.py --distributed-backend gloo ...

Megatron's trainer asks for CUDA in many places. Here every tensor meant for a CUDA device is made
on the CPU, streams and events do nothing, and memory statistics are zero, before SCRIPT.py runs
unchanged. Numbers are computed as always. Where CUDA is available nothing of this happens: the
script runs as if it had been started directly.
"""

from __future__ import annotations

import collections
import contextlib
import os
import runpy
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_packing.needs.installed import end_script_without

end_script_without("torch", "megatron_core")

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


class CudaTensorsOnCpu(TorchFunctionMode):
    """Redirects what asks for a CUDA device to the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
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


def main() -> None:
    """Run the script named first, with the rest of the command line as its own."""
    if len(sys.argv) < 2:
        sys.exit("usage: cpu_trainer.py SCRIPT.py [ARGUMENTS...]")
    run_cuda_code_on_cpu()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
