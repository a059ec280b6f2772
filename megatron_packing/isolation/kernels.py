# SPDX-License-Identifier: Apache-2.0
"""Stands in for the kernels of recurrent layers where they cannot run: on a CPU.

transformers wraps each kernel: without its package, a function of torch's computes the same for a
whole row, and refuses boundaries of documents. Here that function runs for each document, if the
kernel would get boundaries and takes them; else for the whole row. So the check sees whether a
model hands boundaries on to each of its kernels. The kernels themselves need a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch
from torch import Tensor

_BOUNDARIES = {
    "causal_conv1d_fn": "seq_idx",
    "mamba_chunk_scan_combined": "seq_idx",
    "mamba_split_conv1d_scan_combined": "seq_idx",
    "chunk_gated_delta_rule": "cu_seqlens",
    "fused_recurrent_gated_delta_rule": "cu_seqlens",
    "chunk_kda": "cu_seqlens",
    "fused_recurrent_kda": "cu_seqlens",
    "selective_scan_fn": None,
    "mamba_inner_fn": None,
}
"""By kernel of causal-conv1d, mamba-ssm and fla-core: the argument that has the boundaries of
documents; None if it takes none (mamba-ssm 2.3.2, fla-core 0.6.0, causal-conv1d 1.6)."""


@dataclass(slots=True)
class KernelCalls:
    """What kernels were told of documents, for messages."""

    seen: dict[str, bool] = field(default_factory=dict)
    """By kernel, in the order of their calls: whether it got boundaries that it takes."""

    def causes(self) -> list[str]:
        """Say of each kernel that was told nothing why."""
        found = []
        for kernel, was_told in self.seen.items():
            takes = _BOUNDARIES.get(kernel)
            if was_told:
                continue
            if takes is None:
                found.append(f"its kernel {kernel} takes no boundaries of documents at all")
            else:
                found.append(f"its kernel {kernel} got no {takes}")
        return found


@contextlib.contextmanager
def stand_ins(model: Any, *, on_cpu: bool = True) -> Iterator[KernelCalls]:
    """Replace what transformers calls for the kernels of a model, until the context ends.

    Args:
        model: The model; only the modules that define its classes are changed.
        on_cpu: Whether it runs on a CPU; else nothing is replaced.

    Yields:
        What the kernels are told, empty if the model has none.
    """
    calls = KernelCalls()
    if not on_cpu:
        yield calls
        return
    names = {type(module).__module__ for module in model.modules()}
    with contextlib.ExitStack() as stack:
        for module in [sys.modules[name] for name in sorted(names) if name in sys.modules]:
            for name, function in list(vars(module).items()):
                if kernel := _kernel_of(function):
                    torch_function = inspect.unwrap(function)
                    setattr(module, name, _by_document(kernel, torch_function, calls))
                    stack.callback(setattr, module, name, function)
        yield calls


def _kernel_of(function: Any) -> str | None:
    """Return the name of the kernel that a function of transformers wraps; None if none."""
    if not inspect.isfunction(function) or not hasattr(function, "__wrapped__"):
        return None
    try:
        kernel = inspect.getclosurevars(function).nonlocals.get("func_name")
    except ValueError:
        return None
    return kernel if kernel in _BOUNDARIES else None


def _by_document(
    kernel: str, torch_function: Callable[..., Any], calls: KernelCalls
) -> Callable[..., Any]:
    takes = _BOUNDARIES[kernel]
    parameters = inspect.signature(torch_function).parameters
    known = {name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD}

    @functools.wraps(torch_function)
    def compute(*args: Any, **kwargs: Any) -> Any:
        told = kwargs.get(takes) if takes else None
        kwargs = {name: value for name, value in kwargs.items() if name in known}
        offsets = None if told is None else _offsets(told)
        if offsets is None:
            found = torch_function(*args, **kwargs)
        else:
            found = _join(
                [
                    torch_function(
                        *[_cut(value, start, stop, offsets[-1]) for value in args],
                        **{
                            name: _cut(value, start, stop, offsets[-1])
                            for name, value in kwargs.items()
                        },
                    )
                    for start, stop in pairwise(offsets)
                ],
                offsets,
            )
        if found is not None:  # None: transformers has no torch function for it, and calls others
            calls.seen[kernel] = calls.seen.get(kernel, True) and offsets is not None
        return found

    return compute


def _offsets(told: Tensor) -> list[int]:
    """Return where documents begin, and the end: from ``cu_seqlens`` or from ``seq_idx``."""
    if told.ndim == 1:
        return [int(one) for one in told.tolist()]
    segments = told[0]
    starts = torch.nonzero(segments.diff()).flatten() + 1
    return [0, *(int(one) for one in starts.tolist()), len(segments)]


def _cut(value: Any, start: int, stop: int, length: int) -> Any:
    """Return the part of a tensor that is of one document; others as they are."""
    if not isinstance(value, Tensor):
        return value
    for dim, size in enumerate(value.shape):
        if size == length:
            return value.narrow(dim, start, stop - start)
    return value


def _join(parts: list[Any], offsets: list[int]) -> Any:
    """Join what a function returned for each document: the first of several values."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], tuple):
        return (_join([part[0] for part in parts], offsets), *parts[-1][1:])
    lengths = [stop - start for start, stop in pairwise(offsets)]
    for dim in range(parts[0].ndim):
        if [part.shape[dim] for part in parts] == lengths:
            return torch.cat(parts, dim)
    return parts[0]
