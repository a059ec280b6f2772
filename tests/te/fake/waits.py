# SPDX-License-Identifier: Apache-2.0
"""Finds where the host would wait for the GPU, if tensors were on one.

A tensor counts as one on the GPU unless it was read on the host: see ``on_host``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tests.conftest import ROOT

_METHODS = (
    *("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy"),
    *("nonzero", "unique", "unique_consecutive", "equal", "masked_select"),
)
_FUNCTIONS = ("nonzero", "unique", "unique_consecutive", "equal", "masked_select", "allclose")
_CREATIONS = ("empty", "zeros", "ones", "full", "tensor", "arange")
_COLLECTIVES = (
    *("broadcast", "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object"),
    *("broadcast_object_list", "reduce_scatter_tensor", "send", "recv", "barrier", "scatter"),
)
_HERE = str(Path(__file__).parent)
_PASSED_ON = str(ROOT / "megatron_packing" / "megatron" / "cuda_stand_ins.py")


def on_host(row: dict[str, Any], *, pinned: bool = True) -> dict[str, Any]:
    """Mark the tensors of a row as read on the host, by a loader that pins memory or does not."""
    for value in row.values():
        if torch.is_tensor(value):
            _mark(value, pinned=pinned)
    return row


def _mark(tensor: torch.Tensor, *, pinned: bool = False) -> None:
    tensor.is_on_host, tensor.is_in_pinned_memory = True, pinned


def _is_on_host(value: Any) -> bool:
    return getattr(value, "is_on_host", False)


class _HostTensors(TorchFunctionMode):
    """Marks what is computed from tensors on the host alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [value for value in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(value)]
        if given and torch.is_tensor(result) and all(map(_is_on_host, given)):
            is_same = any(result is value for value in (*given, (kwargs or {}).get("out")))
            if not is_same:
                _mark(result)
        return result


@contextlib.contextmanager
def recorded_waits(group: Any = None) -> Iterator[tuple[list[str], list[str]]]:
    """Collect "function at file:line" of each wait, but for those of the stand-ins.

    Args:
        group: The second list gets the names of the collective operations of this group.
    """
    waits: list[str] = []
    messages: list[str] = []

    def wait(name: str, depth: int = 2) -> None:
        frame = sys._getframe(depth)
        while frame.f_back and "/torch/" in frame.f_code.co_filename:
            frame = frame.f_back
        # CUDA's stand-ins only pass on calls that were seen before.
        if not frame.f_code.co_filename.startswith((_HERE, _PASSED_ON)):
            where = "/".join(frame.f_code.co_filename.split("/")[-2:])
            waits.append(f"{name} at {where}:{frame.f_lineno}")

    def waiting(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not (args and _is_on_host(args[0])):
                wait(name)
            return original(*args, **kwargs)

        return call

    def creating(_: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            is_pinned = bool(kwargs.get("pin_memory"))
            is_meant_for_host = kwargs.get("device") is None
            result = original(*args, **kwargs)
            if is_meant_for_host:
                _mark(result, pinned=is_pinned)
            return result

        return call

    def moving(name: str, original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            is_moved = name == "cuda" or any(map(_is_cuda, (*args, *kwargs.values())))
            if not _is_on_host(self) or not is_moved:
                return original(self, *args, **kwargs)
            if not (kwargs.get("non_blocking") and self.is_in_pinned_memory):
                wait(f"{name} of memory that is not pinned")
            with torch._C.DisableTorchFunction():
                return original(self, *args, **kwargs).clone()  # without the mark

        return call

    def sending(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if group is not None and group in (*args, *kwargs.values()):
                messages.append(name)
            return original(*args, **kwargs)

        return call

    changes = [
        *((torch.Tensor, name, waiting) for name in _METHODS),
        *((torch, name, waiting) for name in _FUNCTIONS),
        *((torch, name, creating) for name in _CREATIONS),
        *((torch.Tensor, name, moving) for name in ("to", "cuda")),
        *((torch.distributed, name, sending) for name in _COLLECTIVES),
    ]
    with contextlib.ExitStack() as restored:
        for owner, name, change in changes:
            is_own = name in vars(owner)
            original = getattr(owner, name)
            setattr(owner, name, change(name, original))
            restored.callback(
                (lambda o, n, f: setattr(o, n, f)) if is_own else (lambda o, n, _: delattr(o, n)),
                owner,
                name,
                original,
            )
        restored.enter_context(_HostTensors())
        yield waits, messages


def _is_cuda(value: Any) -> bool:
    return isinstance(value, str | torch.device) and "cuda" in str(value)
