# SPDX-License-Identifier: Apache-2.0
"""Runs a script that trains Llama 3 70B by Bridge's recipe, up to where Bridge begins to train.

    run_example.py SCRIPT ARGUMENT...

Prints the settings that it would train with, as JSON.
"""

from __future__ import annotations

import json
import runpy
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bridge import run_recipe  # noqa: F401  # Bridge, and what the hub has of Llama 3 70B

# isort: split
import megatron.bridge.training.finetune as finetune_module


def print_settings(cfg, forward_step) -> None:
    """In place of finetune, which needs 32 GPUs."""
    for fused in ("apply_rope_fusion", "gradient_accumulation_fusion", "masked_softmax_fusion"):
        setattr(cfg.model, fused, False)
    cfg.mixed_precision = None
    cfg.validate()
    found = {
        "dataset": type(cfg.dataset).__name__,
        "row": cfg.model.seq_length,
        "stages": cfg.model.pipeline_model_parallel_size,
        "context": cfg.model.context_parallel_size,
        "batch": cfg.train.global_batch_size,
        "steps": cfg.train.train_iters,
        "evaluation": getattr(cfg, "validation", cfg.train).eval_iters,
        "save": cfg.checkpoint.save,
        "step": f"{forward_step.__module__}.{forward_step.__name__}",
    }
    sys.stdout.write(json.dumps(found) + "\n")


finetune_module.finetune = print_settings
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
