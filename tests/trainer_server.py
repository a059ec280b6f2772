# SPDX-License-Identifier: Apache-2.0
"""Runs Megatron training scripts, each in forked ranks, so that torch is imported once.

See ``tests.forked_ranks`` for what it reads and ``tests.trainer`` for who writes it. Put in place
beforehand are CUDA's stand-ins and, in each rank, ``observe``: what the trainer computed, with all
its digits, as JSON lines.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import runpy
import sys
import warnings
from contextlib import suppress
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import cpu_trainer

cpu_trainer.run_cuda_code_on_cpu()

import megatron.core.models.mimo  # imported late otherwise, by each rank
import megatron.training.training as training
import torch.multiprocessing
from megatron.training import argument_utils
from megatron.training.arguments import add_megatron_arguments

import megatron_packing.megatron.trainer as packed_trainer
from tests.forked_ranks import serve

with suppress(ModuleNotFoundError):  # 0.20 lacks it; imported late otherwise, as above
    import megatron.core.tokenizers.text.models  # noqa: F401

get_context = torch.multiprocessing.get_context
# Megatron starts processes anew to write checkpoints, which then import torch for seconds.
torch.multiprocessing.get_context = lambda _=None: get_context("fork")


def observe(folder: Path, rank: int) -> None:
    """Write down losses, gradient norms, evaluations and the rows that are read."""

    def write(name: str, record: object) -> None:
        with (folder / f"{name}.{rank}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    training_log, evaluate, get_batch = (
        training.training_log,
        training.evaluate,
        packed_trainer.get_batch,
    )
    operations = training.num_floating_point_operations

    def log(loss_dict, total_loss_dict, learning_rate, iteration, *args, **kwargs):
        losses = {name: float(loss) for name, loss in loss_dict.items()}
        grad_norm = None if args[3] is None else float(args[3])
        if losses:
            write("steps", {"step": iteration, "grad_norm": grad_norm, **losses})
        return training_log(loss_dict, total_loss_dict, learning_rate, iteration, *args, **kwargs)

    def evaluate_and_write(*args, **kwargs):
        result = evaluate(*args, **kwargs)
        if result[0]:
            write("evaluations", {name: float(loss) for name, loss in result[0].items()})
        return result

    def read(data_iterator, vp_stage, **needs):
        return get_batch(data_iterator and written(data_iterator), vp_stage, **needs)

    def written(data_iterator):
        while True:
            sample = next(data_iterator)
            if {"tokens", "cu_seqlens"} <= sample.keys():
                starts = sample["cu_seqlens"].view(-1)
                if "real_lengths" in sample:  # how the tail is cut depends on the other corpora
                    starts = starts[: int((sample["real_lengths"] > 0).sum()) + 1]
                row = sample["tokens"].numpy().tobytes() + starts.numpy().tobytes()
                step = getattr(training.get_args(), "curr_iteration", -1) + 1
                write("rows", [step, hashlib.sha256(row).hexdigest()[:16]])
            yield sample

    def count(args, batch_size, **kwargs):
        operations_counted = operations(args, batch_size, **kwargs)
        write("operations", {**kwargs, "operations": operations_counted})
        return operations_counted

    training.training_log = log
    training.evaluate = evaluate_and_write
    training.num_floating_point_operations = count
    packed_trainer.get_batch = read


def run_script(request: dict, rank: int) -> None:
    """Run the script of a request, observed."""
    observe(Path(request["folder"]), rank)
    runpy.run_path(request["argv"][0], run_name="__main__")


def read_docstrings_once() -> None:
    """Megatron parses the source of its configurations whenever a parser is made."""
    factory = argument_utils.ArgumentGroupFactory
    read = factory._get_field_docstrings
    known: dict[type, dict[str, str]] = {}

    def read_once(self, config: type) -> dict[str, str]:
        if config not in known:
            known[config] = read(self, config)
        return dict(known[config])

    factory._get_field_docstrings = read_once
    add_megatron_arguments(argparse.ArgumentParser())


if __name__ == "__main__":
    read_docstrings_once()
    serve(run_script)
