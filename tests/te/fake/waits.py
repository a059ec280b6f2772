# SPDX-License-Identifier: Apache-2.0
"""Finds where the host would wait for the GPU, if tensors were on one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.conftest import ROOT

_METHODS = (
    *("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy"),
    *("nonzero", "unique", "unique_consecutive", "equal", "masked_select"),
)
_FUNCTIONS = ("nonzero", "unique", "unique_consecutive", "equal", "masked_select", "allclose")
_HERE = str(Path(__file__).parent)
_PASSED_ON = str(ROOT / "examples" / "cpu_trainer.py")


@contextlib.contextmanager
def recorded_waits() -> Iterator[list[str]]:
    """Collect "function at file:line" of each wait, but for those of the stand-ins."""
    found: list[str] = []

    def recording(owner: Any, name: str) -> Any:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            while frame.f_back and "/torch/" in frame.f_code.co_filename:
                frame = frame.f_back
            # CUDA's stand-ins only pass on calls that were seen before.
            if not frame.f_code.co_filename.startswith((_HERE, _PASSED_ON)):
                where = "/".join(frame.f_code.co_filename.split("/")[-2:])
                found.append(f"{name} at {where}:{frame.f_lineno}")
            return original(*args, **kwargs)

        return call

    with contextlib.ExitStack() as restored:
        for owner, names in ((torch.Tensor, _METHODS), (torch, _FUNCTIONS)):
            for name in names:
                is_own = name in vars(owner)
                original = getattr(owner, name)
                setattr(owner, name, recording(owner, name))
                restored.callback(
                    (lambda o, n, f: setattr(o, n, f))
                    if is_own
                    else (lambda o, n, _: delattr(o, n)),
                    owner,
                    name,
                    original,
                )
        yield found
