# SPDX-License-Identifier: Apache-2.0
"""Runs Megatron training scripts, each in forked ranks, so that torch is imported once.

Reads one JSON request a line and answers each with one line: see ``tests.trainer``. Ranks run as
under torchrun: where one fails, the others are killed. Put in place beforehand are CUDA's stand-ins
and, in each rank, ``observe``: what the trainer computed, with all its digits, as JSON lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import cpu_trainer

cpu_trainer.run_cuda_code_on_cpu()

import megatron.training.training as training
import torch.multiprocessing

import megatron_packing.megatron.trainer as packed_trainer

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

    def read(data_iterator, vp_stage):
        return get_batch(data_iterator and written(data_iterator), vp_stage)

    def written(data_iterator):
        while True:
            sample = next(data_iterator)
            if {"tokens", "cu_seqlens"} <= sample.keys():
                row = sample["tokens"].numpy().tobytes() + sample["cu_seqlens"].numpy().tobytes()
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


def run_rank(request: dict, rank: int, port: int) -> None:
    """Become one rank of a run; never returns."""
    folder = Path(request["folder"])
    ranks = str(request["ranks"])
    os.setpgid(0, 0)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=ranks,
        LOCAL_WORLD_SIZE=ranks,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        **request["environment"],
    )
    log = os.open(folder / f"log.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 0
    try:
        observe(folder, rank)
        sys.argv = request["argv"]
        runpy.run_path(request["argv"][0], run_name="__main__")
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            sys.stderr.write(exit_.code + "\n")
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(request: dict) -> dict:
    """Fork the ranks, and wait for all, for one that fails, or for the time to kill them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {}
    for rank in range(request["ranks"]):
        pid = os.fork()
        if pid == 0:
            run_rank(request, rank, port)
        with contextlib.suppress(PermissionError):
            os.setpgid(pid, pid)  # in the rank too: whoever comes first
        ranks[pid] = rank
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + request["timeout"]
    steps = [Path(request["folder"]) / f"steps.{rank}.jsonl" for rank in ranks.values()]
    timed_out = False
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            statuses[ranks.pop(pid)] = os.waitstatus_to_exitcode(status)
            kill([pid])  # what it started to write checkpoints lives on otherwise
            if status:
                time.sleep(1)  # the others may be about to say the same
                kill(ranks)
            continue
        kill_after = request["kill_after"]
        if kill_after is not None:
            done = max(len(path.read_text().splitlines()) if path.exists() else 0 for path in steps)
            if done >= kill_after:
                kill(ranks)
        if time.monotonic() > deadline:
            timed_out = True
            kill(ranks)
        time.sleep(0.005)
    return {"statuses": [statuses[rank] for rank in sorted(statuses)], "timed_out": timed_out}


def kill(pids: Iterable[int]) -> None:
    """Kill ranks and what they started."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
