# SPDX-License-Identifier: Apache-2.0
"""Records the operations of a step, with what a captured CUDA graph would hold fast.

That is their order, the shapes and types of tensors, and all other arguments. Operations inside of
the stand-ins are left out; ``calls`` has what those are called with.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_HERE = str(Path(__file__).parent)


class _Operations(TorchDispatchMode):
    def __init__(self, operations: list[str]) -> None:
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _is_in_stand_in():
            given = torch.utils._pytree.tree_leaves((args, kwargs))
            self.operations.append(f"{func} {[_describe(value) for value in given]}")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def recorded_operations() -> Iterator[list[str]]:
    """Collect each operation of torch with the shapes and values that it is given."""
    operations: list[str] = []
    with _Operations(operations):
        yield operations


def _describe(value: Any) -> Any:
    if torch.is_tensor(value):
        return tuple(value.shape), value.dtype
    is_object = type(value).__name__ == "ScriptObject"  # of a group; its text is an address
    return "object" if is_object else value


def _is_in_stand_in() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_HERE) and name != __file__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
