# SPDX-License-Identifier: Apache-2.0
"""Runs the script that SCRIPT names, with a model of which only the projections after attention and
the output layer are trained, as low-rank adapters leave the rest frozen.
"""

import os
import runpy
import sys
from pathlib import Path

from megatron.core.models.gpt import GPTModel

initialize = GPTModel.__init__


def initialize_and_freeze(model, *args, **kwargs):
    initialize(model, *args, **kwargs)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "linear_proj" in name or "output_layer" in name


GPTModel.__init__ = initialize_and_freeze
sys.path.insert(0, str(Path(os.environ["SCRIPT"]).parent))
runpy.run_path(os.environ["SCRIPT"], run_name="__main__")
