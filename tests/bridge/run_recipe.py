# SPDX-License-Identifier: Apache-2.0
"""Puts packed data into Bridge's own recipe for Llama 3 70B, in a process of its own.

    run_recipe.py FOLDER CASES.json

A case is {"model": {...}, "train": {...}, "top": {...}, "kind": [CLASS, {...}], "arguments": {...},
"after": {PART: {...}}, "yaml": bool, "version": TEXT}: what the recipe is changed by before, its
model, what ``use_packed_data`` is called with (FOLDER stands before its indexes), what the recipe
is changed by afterwards, whether it is read from YAML then, and what version Bridge says it is.
Prints a JSON list of what came of each: its changes, or the error.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
logging.disable()
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from tests.bridge import source  # noqa: F401  # isort: skip  # before Megatron

import megatron.core.models.gpt  # noqa: F401  # before stand-ins are there

from tests.bridge.absent import prepare_bridge

prepare_bridge()

from megatron.bridge import AutoBridge, package_info
from megatron.bridge.training.config import ConfigContainer
from transformers import LlamaConfig

try:
    from megatron.bridge.recipes.llama.h100.llama3 import (
        llama3_70b_sft_32gpu_h100_bf16_config as llama3_70b_sft_config,
    )
except ModuleNotFoundError:
    from megatron.bridge.recipes.llama.llama3 import llama3_70b_sft_config

from megatron_packing import ranks
from megatron_packing.bridge import recipe
from megatron_packing.errors import InputError

ranks.STALE_SECONDS = 1  # nothing shows late here


def llama3_70b(*_, **__) -> AutoBridge:
    """What the hub has under the recipe's name, which is out of reach."""
    return AutoBridge.from_hf_config(
        LlamaConfig(
            architectures=["LlamaForCausalLM"],
            hidden_size=8192,
            intermediate_size=28672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
            vocab_size=128256,
            rope_theta=500000.0,
            dtype="bfloat16",
        )
    )


VERSION = package_info.__version__
AutoBridge.from_hf_pretrained = staticmethod(llama3_70b)


def make_model(name: str, settings: dict) -> object:
    """Of a class of Bridge, ``MODULE.CLASS``; its own fields are as they come."""
    module, _, kind = name.rpartition(".")
    made = getattr(importlib.import_module(f"megatron.bridge.models.{module}"), kind)
    return made(num_layers=8, hidden_size=64, num_attention_heads=8, seq_length=4096, **settings)


def run(folder: Path, case: dict) -> dict:
    """One case."""
    os.environ["WORLD_SIZE"] = str(case.get("world", 32))
    package_info.__version__ = case.get("version", VERSION)
    cfg = llama3_70b_sft_config()
    if "kind" in case:
        cfg.model = make_model(*case["kind"])
    for part in ("model", "train", "ddp"):
        for name, value in case.get(part, {}).items():
            setattr(getattr(cfg, part), name, value)
    for name, value in case.get("top", {}).items():
        setattr(cfg, name, value)
    arguments = case["arguments"]
    for name in ("train", "validation", "test"):
        if isinstance(arguments.get(name), str):
            arguments[name] = folder / arguments[name]
        elif name in arguments:  # a blend
            arguments[name] = [
                folder / word if isinstance(word, str) else word for word in arguments[name]
            ]
    printed = io.StringIO()
    recipe.console.file = printed
    try:
        changes = recipe.use_packed_data(cfg, **arguments)
    except InputError as error:
        return {"error": str(error), "dataset": type(cfg.dataset).__name__}
    # Bridge's own check of the whole, but for what only Transformer Engine can do.
    for fused in ("apply_rope_fusion", "gradient_accumulation_fusion", "masked_softmax_fusion"):
        setattr(cfg.model, fused, False)
    cfg.mixed_precision = None
    for part, settings in case.get("after", {}).items():
        for name, value in settings.items():
            setattr(getattr(cfg, part), name, value)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if case.get("yaml"):
                cfg.to_yaml(f"{folder}/recipe.yaml")
                cfg = ConfigContainer.from_yaml(f"{folder}/recipe.yaml")
            cfg.validate()
            cfg.to_yaml(f"{folder}/recipe.yaml")
            again = ConfigContainer.from_yaml(f"{folder}/recipe.yaml")
    except InputError as error:
        return {"refused when validated": str(error)}
    assert again.dataset == cfg.dataset
    return {
        "changes": {change.setting: f"{change.was} -> {change.now}" for change in changes},
        "printed": printed.getvalue(),
    }


def main() -> None:
    folder, cases = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    sys.stdout.write(json.dumps([run(folder, case) for case in cases]) + "\n")


if __name__ == "__main__":
    main()
