# SPDX-License-Identifier: Apache-2.0
"""A rank that dies under torchrun costs time and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("megatron.core")

from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import CPU, MODEL, ROW, TRAINING, needs_trainer, train

SCRIPT = Path(__file__).with_name("pretrain_killed.py")


def torchrun(folder: Path, script: Path, *words: object) -> tuple[int, str]:
    """Run two ranks, which torchrun starts again once: its status, and the output of all.

    The output goes to a file, since what a killed rank had started would keep a pipe open. No
    process outlives the time limit: each rank leads a group, and writes down its number.
    """
    folder.mkdir()
    launcher = ["torch.distributed.run", "--standalone", "--max-restarts=1", "--nproc-per-node=2"]
    settings = {"OMP_NUM_THREADS": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    # All attempts share one store otherwise, where new ranks find the addresses of dead ones.
    settings["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *launcher, str(script), str(folder), *map(str, words)],
            env={**os.environ, **settings, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = None
        try:
            status = process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            for path in folder.glob("*/process.*"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(path.read_text()), signal.SIGKILL)
    text = (folder / "output").read_text(errors="replace")
    if status is None:
        pytest.fail(f"no end within {TIME_LIMIT} s: {text[-3000:]}")
    return status, text


def trained_and_read(folder: Path) -> tuple[dict, dict]:
    """Of each step of an attempt: loss and gradient norm of each rank, and the rows of all."""
    steps: dict[int, set[tuple[float, float]]] = {}
    rows: dict[int, list[str]] = {}
    for path in folder.glob("steps.*.jsonl"):
        for step in map(json.loads, path.read_text().splitlines()):
            steps.setdefault(step["step"], set()).add((step["lm loss"], step["grad_norm"]))
    for path in folder.glob("rows.*.jsonl"):
        for step, row in map(json.loads, path.read_text().splitlines()):
            rows.setdefault(step, []).append(row)
    return steps, {step: sorted(found) for step, found in rows.items()}


@needs_trainer
@pytest.mark.slow
def test_a_run_whose_rank_dies_ends_with_the_losses_of_an_unbroken_run_bit_for_bit(tmp_path):
    steps, dies_after, saved = 8, 5, 4
    lengths = chat_like_lengths(100, longest=ROW)
    corpora = [write_corpus(tmp_path / f"corpus{i}", lengths[i::2], seed=i) for i in range(2)]
    data = f"--data-path 3 {corpora[0].prefix} 1 {corpora[1].prefix} --train-iters {steps} "
    data += f"--data-cache-path {tmp_path / 'cache'}"
    checkpoints = tmp_path / "checkpoints"
    unbroken = train(f"{data} --save {tmp_path / 'unbroken'} --save-interval 2", ranks=2)

    flags = f"{data} --save {checkpoints} --load {checkpoints} --save-interval 2 "
    flags += "--no-packing-check"  # it reads rows, which are compared here
    words = (MODEL + CPU + TRAINING + flags).split()
    status, output = torchrun(tmp_path / "log", SCRIPT, dies_after, *words)
    assert status == 0, output[-5000:]
    assert "exitcode: -9" in output
    (first, first_rows), (second, second_rows) = (
        trained_and_read(tmp_path / "log" / attempt) for attempt in "01"
    )
    expected = {step + 1: {(one.loss, one.grad_norm)} for step, one in enumerate(unbroken.steps)}
    assert sorted(expected) == list(range(1, steps + 1))
    # Steps after the checkpoint are trained twice, the same each time.
    assert first == {step: expected[step] for step in range(1, dies_after + 1)}
    assert second == {step: expected[step] for step in range(saved + 1, steps + 1)}
    for step in range(1, dies_after + 1):
        assert first_rows[step] == unbroken.rows[step]
    assert second_rows == {step: unbroken.rows[step] for step in range(saved + 1, steps + 1)}
