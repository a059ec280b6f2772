# SPDX-License-Identifier: Apache-2.0
"""Trains as examples/pretrain_packed_gpt.py does, and writes what the writers get to SCALARS.

Megatron makes its TensorBoard and W&B writers on the last rank; these take their places. With
TENSORBOARD a real one of torch writes there too.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import pretrain_packed_gpt
from megatron.training import global_vars

import megatron_packing.megatron.live_figures as live_figures


class Scalars:
    """Both writers; each figure is written as a line."""

    def __init__(self):
        self.real = None
        if folder := os.environ.get("TENSORBOARD"):
            from torch.utils.tensorboard import SummaryWriter

            self.real = SummaryWriter(folder)

    def write(self, kind, name, value, step):
        with Path(os.environ["SCALARS"]).open("a") as file:
            file.write(json.dumps([kind, name, float(value), step]) + "\n")

    def add_scalar(self, name, value, step):
        self.write("tensorboard", name, value, step)
        if self.real:
            self.real.add_scalar(name, value, step)
            self.real.flush()

    def log(self, values, step):
        for name, value in values.items():
            self.write("wandb", name, value, step)

    def add_text(self, *_, **__):
        """Megatron writes its arguments."""

    def flush(self):
        """Every line is written at once."""


def set_writers(args):
    if args.rank == args.world_size - 1:
        global_vars._GLOBAL_TENSORBOARD_WRITER = Scalars()
        live_figures.get_wandb_writer = lambda: global_vars._GLOBAL_TENSORBOARD_WRITER


global_vars._set_tensorboard_writer = set_writers

if __name__ == "__main__":
    pretrain_packed_gpt.main()
