# SPDX-License-Identifier: Apache-2.0
"""Puts packed data into Bridge's own recipe for Llama 3 70B, in a process of its own.

    run_recipe.py FOLDER CASES.json

A case is {"recipe": MODULE.FUNCTION, "kind": [CLASS, {...}], "hub": NAME, "model": {...},
"train": {...}, "top": {...}, "arguments": {...}, "after": {PART: {...}}, "yaml": bool,
"version": TEXT}: another recipe, its model or what that is converted from, what the recipe is
changed by before, what ``use_packed_data`` is called with (FOLDER stands before its indexes), what
the recipe is changed by afterwards, whether it is read from YAML then, and what version Bridge says
it is.
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

import transformers
from megatron.bridge import AutoBridge, package_info
from megatron.bridge.training.config import ConfigContainer

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


def made_from_hub(name: str, *_, **__) -> AutoBridge:
    """What the hub has under the recipe's name, which is out of reach; small, but for Llama."""
    if "Qwen3-Next" in name:
        return AutoBridge.from_hf_config(
            transformers.Qwen3NextConfig(
                architectures=["Qwen3NextForCausalLM"], num_hidden_layers=8, dtype="bfloat16"
            )
        )
    if "Qwen3.5" in name:
        config = transformers.Qwen3_5TextConfig(
            architectures=["Qwen3_5ForCausalLM"], num_hidden_layers=8, dtype="bfloat16"
        )
        return AutoBridge.from_hf_config(config)
    return AutoBridge.from_hf_config(
        transformers.LlamaConfig(
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


FUSED = (
    "apply_rope_fusion",
    "gradient_accumulation_fusion",
    "masked_softmax_fusion",
    "moe_permute_fusion",
)
VERSION = package_info.__version__
AutoBridge.from_hf_pretrained = staticmethod(made_from_hub)


def make_recipe(name: str) -> ConfigContainer:
    """Another recipe of Bridge, ``MODULE.FUNCTION``."""
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"megatron.bridge.recipes.{module}"), function)()


def make_model(name: str, settings: dict) -> object:
    """Of a class of Bridge, ``MODULE.CLASS``; its own fields are as they come."""
    module, _, kind = name.rpartition(".")
    made = getattr(importlib.import_module(f"megatron.bridge.models.{module}"), kind)
    return made(num_layers=8, hidden_size=64, num_attention_heads=8, seq_length=4096, **settings)


def run(folder: Path, case: dict) -> dict:
    """One case."""
    os.environ["WORLD_SIZE"] = str(case.get("world", 32))
    package_info.__version__ = case.get("version", VERSION)
    cfg = make_recipe(case["recipe"]) if "recipe" in case else llama3_70b_sft_config()
    if "kind" in case:
        cfg.model = make_model(*case["kind"])
    if "hub" in case:
        cfg.model = made_from_hub(case["hub"]).to_megatron_provider(load_weights=False)
        cfg.model.seq_length = 4096
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
    # Bridge's own check of the whole, but for what needs Transformer Engine or asks the GPU.
    for fused in FUSED:
        setattr(cfg.model, fused, False)
    cfg.model.moe_token_dispatcher_type = "alltoall"
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
