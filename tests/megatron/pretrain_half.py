# SPDX-License-Identifier: Apache-2.0
"""Trains as a stock script does of which only a part was replaced; HALF names what was left out.

``NAME=OTHER`` replaces a part by the function OTHER of pretrain_stock.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
sys.path.insert(1, str(Path(__file__).resolve().parent))

import pretrain_packed_gpt
import pretrain_stock

from megatron_packing.megatron.launch import run_training

left_out = os.environ["HALF"]
for part in left_out.split(","):
    name, _, other = part.partition("=")
    setattr(pretrain_packed_gpt, name, getattr(pretrain_stock, other or name))

if __name__ == "__main__":
    run_training(pretrain_packed_gpt.main)
