# SPDX-License-Identifier: Apache-2.0
"""Prepares a process for the check of a small model, before anything of Megatron is imported."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from megatron_packing.errors import InputError
from megatron_packing.isolation.result import ModelCheck


def check_flags(given: str, device: str | None = None) -> ModelCheck:
    """Check the model that flags of a pretrain script ask for, made small.

    Args:
        given: The flags, or a file that has them.
        device: "cpu" or "cuda"; None: a GPU where there is one.

    Raises:
        InputError: The flags are wrong, or the model cannot be checked here.
    """
    on_cpu = choose_device(device)
    with quietly():
        require_trainer()
        from megatron_packing.megatron import small_model

        return small_model.check_flags(given, on_cpu=on_cpu)


def choose_device(device: str | None) -> bool:
    """Say whether the check runs on the CPU, and put CUDA's stand-ins in place if it does.

    Raises:
        InputError: There is no such device.
    """
    if device not in (None, "cpu", "cuda"):
        raise InputError(f"--device is {device}; give cpu or cuda for a model of Megatron")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from megatron_packing.megatron.cuda_stand_ins import run_cuda_code_on_cpu

    with quietly():
        run_cuda_code_on_cpu()
    on_cpu = torch.empty(0, device="cuda").device.type == "cpu"
    if on_cpu and device == "cuda":
        raise InputError("--device is cuda, but torch finds no GPU; give cpu")
    return on_cpu


def require_trainer() -> None:
    """Refuse a megatron-core without the trainer that reads flags.

    Raises:
        InputError: Says what is installed, and what to install.
    """
    from megatron_packing.megatron.versions import require_model_builders

    require_model_builders()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what Megatron and the libraries below it print away from the answer."""
    level = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        nothing = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
        stack.enter_context(contextlib.redirect_stdout(nothing))
        stack.enter_context(contextlib.redirect_stderr(nothing))
        stack.enter_context(_descriptors(nothing.fileno(), 1, 2))
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


@contextlib.contextmanager
def _descriptors(target: int, *descriptors: int) -> Iterator[None]:
    """Point file descriptors elsewhere: some libraries print without Python."""
    _flush()
    saved = [os.dup(descriptor) for descriptor in descriptors]
    for descriptor in descriptors:
        os.dup2(target, descriptor)
    try:
        yield
    finally:
        _flush()
        for copy, descriptor in zip(saved, descriptors, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
