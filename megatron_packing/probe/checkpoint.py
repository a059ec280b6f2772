# SPDX-License-Identifier: Apache-2.0
"""Loads the model of a checkpoint with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import megatron_packing.needs.torch  # noqa: F401

import torch

from megatron_packing.errors import InputError, missing

try:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging
except ModuleNotFoundError as error:
    raise missing("probe", str(error.name), "probe") from error

from megatron_packing.probe.attention import RECORDED


def load_checkpoint(path: Path, device: str) -> Any:
    """Load a causal language model whose attention is recorded. Nothing is downloaded.

    Args:
        path: A folder of Hugging Face's, or a GGUF file.
        device: Where it runs. On the CPU weights are float32, else as they are stored.

    Raises:
        InputError: It cannot be loaded.
    """
    is_gguf = path.suffix == ".gguf"
    if not (path.is_file() if is_gguf else (path / "config.json").is_file()):
        raise InputError(
            f"{path} is no checkpoint; give a folder with Hugging Face's config.json and "
            f"safetensors, or a .gguf file (Megatron's checkpoints must be converted first)"
        )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path.parent if is_gguf else path,
            **({"gguf_file": path.name} if is_gguf else {}),
            attn_implementation=RECORDED,
            dtype=torch.float32 if device == "cpu" else "auto",
            local_files_only=True,
        )
        return model.to(device).eval()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"transformers cannot load {path} ({reason}); give a causal language model with a "
            f"class in transformers and attention in every layer, such as Llama or Qwen"
        ) from error
