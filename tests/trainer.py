# SPDX-License-Identifier: Apache-2.0
"""Runs training scripts through Megatron's own pretrain() on this machine."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import json
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import EXAMPLES
from tests.limits import TIME_LIMIT
from tests.ranks import SERVERS, RankServer


def _find_trainer() -> tuple[tuple[int, int], str]:
    """The release of megatron-core, and what there is in place of the trainer that scripts need."""
    try:
        if importlib.util.find_spec("megatron.training") is None:
            return (0, 0), "megatron-core without megatron.training"
    except ModuleNotFoundError:
        return (0, 0), "no megatron-core"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        version = str(importlib.import_module("megatron.core").__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    release = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    return release, "" if release >= (0, 19) else f"megatron-core {version}"


RELEASE, _FOUND = _find_trainer()
HAS_TRAINER = not _FOUND
needs_trainer = pytest.mark.skipif(
    not HAS_TRAINER,
    reason=f"pretrain() of megatron-core 0.19 or later is needed: there is {_FOUND}",
)

until_0_19 = pytest.mark.skipif(
    RELEASE >= (0, 20), reason="megatron-core 0.20 has mended or moved it"
)

ROW = 128
PRETRAIN_PACKED = EXAMPLES / "pretrain_packed_gpt.py"
MODEL = f"""
    --num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length {ROW}
    --max-position-embeddings {ROW} --position-embedding-type rope --normalization RMSNorm --swiglu
    --disable-bias-linear --untie-embeddings-and-output-weights --attention-dropout 0
    --hidden-dropout 0 --tokenizer-type NullTokenizer --vocab-size 256
    --make-vocab-size-divisible-by 64
"""
CPU = """
    --distributed-backend gloo --transformer-impl local --use-cpu-initialization --no-rope-fusion
    --no-gradient-accumulation-fusion --no-masked-softmax-fusion --no-bias-swiglu-fusion
    --no-bias-dropout-fusion --no-persist-layer-norm
"""
TRAINING = """
    --micro-batch-size 1 --global-batch-size 4 --lr 1e-3 --lr-decay-style constant
    --calculate-per-token-loss --no-create-attention-mask-in-dataloader --ckpt-format torch_dist
    --eval-iters 0 --eval-interval 1000 --log-interval 1 --num-workers 0 --split 100,0,0
"""


@dataclass(frozen=True)
class Step:
    """An optimizer step, as the trainer logged it, with all digits."""

    loss: float
    grad_norm: float
    others: dict[str, float]
    """What else it logged by the loss, such as losses of multi-token prediction."""


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    status: int
    output: str
    """Of all ranks, one after another."""
    steps: list[Step]
    evaluations: list[float]
    """Losses of the validation passes, then of the test passes."""
    rows: dict[int, list[str]]
    """Of each step: a hash of every row that was read for it, sorted."""
    reads: list[str]
    """The hashes of all rows that the first rank read, evaluations among them, in their order."""
    operations: list[dict[str, float]]
    """Of each step: what the trainer counted as floating-point operations, and from what."""


def pretrain(
    flags: str,
    ranks: int = 1,
    without: str = "",
    *,
    script: Path = PRETRAIN_PACKED,
    environment: dict[str, str] | None = None,
    kill_after: int | None = None,
    check: bool | None = False,
) -> Run:
    """Train with the model and settings above and ``flags``.

    Args:
        flags: Later ones overrule earlier ones.
        ranks: Processes.
        without: A text to leave out of all flags.
        script: What to run.
        environment: Variables beside those of this process.
        kill_after: Kill all ranks with SIGKILL once so many steps were logged.
        check: Whether the run begins with the packing check, which costs a second; None: as the
            flags say.
    """
    words = (MODEL + CPU + TRAINING + flags).replace(without, "").split()
    if check is not None:
        words.append("--packing-check" if check else "--no-packing-check")
    return run_script(
        [str(script), *words],
        ranks,
        environment=environment,
        kill_after=kill_after,
    )


def run_script(
    words: list[str],
    ranks: int,
    *,
    environment: dict[str, str] | None = None,
    kill_after: int | None = None,
) -> Run:
    """Run a training script: ``words`` are its path and its arguments. See ``pretrain``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answer = _server().ask(
            argv=words,
            ranks=ranks,
            folder=name,
            outputs=["log", "log"],
            environment=environment or {},
            kill_after=kill_after,
            timeout=TIME_LIMIT,
        )
        output = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("log.*")))
        assert not answer["timed_out"], f"no end within {TIME_LIMIT} s: {output[-3000:]}"
        steps, evaluations, reads, operations = (
            [_read_lines(path) for path in sorted(folder.glob(f"{kind}.*.jsonl"))]
            for kind in ("steps", "evaluations", "rows", "operations")
        )
    rows: dict[int, set[str]] = {}
    for step, row in itertools.chain(*reads):
        rows.setdefault(step, set()).add(row)  # ranks that share a row each read it
    # Ranks of the last stage log the same.
    return Run(
        status=next((status for status in answer["statuses"] if status), 0),
        output=output,
        steps=[_step(**step) for step in next(iter(steps), [])],
        evaluations=[loss["lm loss"] for loss in next(iter(evaluations), [])],
        rows={step: sorted(found) for step, found in rows.items()},
        reads=[row for _, row in next(iter(reads), [])],
        operations=next(iter(operations), []),
    )


def train(flags: str, ranks: int = 1, **options) -> Run:
    """As ``pretrain``, of a run that must succeed."""
    run = pretrain(flags, ranks, **options)
    assert run.status == 0, run.output[-5000:]
    return run


class FromCheckpoint:
    """Flags of runs that start from one checkpoint a model.

    Without one, initial weights would depend on the layout.
    """

    def __init__(self, flags: str, folder: Path, steps: int) -> None:
        """Train nothing yet.

        Args:
            flags: Of all runs.
            folder: Gets the checkpoints.
            steps: Of each run.
        """
        self._flags, self._folder, self._steps = flags, folder, steps
        self._models: dict[str, str] = {}

    def __call__(self, model: str = "") -> str:
        """Return the flags of a run of a model, which has these flags of its own."""
        if model not in self._models:
            path = self._folder / f"checkpoint{len(self._models)}"
            flags = f"{self._flags} {model}"
            train(f"{flags} --train-iters 1 --save {path} --save-interval 1")
            self._models[model] = f"{flags} --load {path} --finetune --train-iters {self._steps}"
        return self._models[model]


def padded_batches(rows: int) -> str:
    """Flags of a padded run with so many rows in a step, a multiple of 8: eight at a time."""
    return f"--global-batch-size {rows} --micro-batch-size 8"


class PaddedRuns:
    """Padded runs of the documents of packed ones, on one rank. Each is trained once."""

    def __init__(self, script: Path, begin: FromCheckpoint, rows: int) -> None:
        """Train nothing yet.

        Args:
            script: tests/megatron/pretrain_padded_gpt.py, or one like it.
            begin: Gives the flags.
            rows: In a step: at least the documents of the four packs in a packed step.
        """
        self._script, self._begin, self._rows = script, begin, rows
        self._runs: dict[tuple[str, str], Run] = {}

    def __call__(self, normaliser: str = "token", model: str = "") -> Run:
        """Return the run of a model."""
        if (normaliser, model) not in self._runs:
            self._runs[normaliser, model] = train(
                f"{self._begin(model)} {padded_batches(self._rows)} "
                f"--packing-normaliser {normaliser}",
                script=self._script,
                environment={"PACKED_GLOBAL_BATCH_SIZE": "4"},
            )
        return self._runs[normaliser, model]


def _step(step: int, grad_norm: float, **logged: float) -> Step:  # noqa: ARG001
    return Step(logged.pop("lm loss"), grad_norm, logged)


def _read_lines(path: Path) -> list:
    # What was being written when a rank was killed is no line.
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@functools.cache
def _server() -> RankServer:
    # Megatron asks for one connection under tensor parallelism.
    settings = {"OMP_NUM_THREADS": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    return RankServer(SERVERS / "trainer_server.py", environment=settings)


@functools.cache
def megatrons_flags() -> dict[str, list[str]]:
    """The flags of each argument of Megatron's parser, by the argument's name.

    Another process finds them: Megatron asks for CUDA as it is imported.
    """
    program = (
        "import sys, argparse, json; sys.path.insert(0, sys.argv[1]); import cpu_trainer; "
        "cpu_trainer.run_cuda_code_on_cpu(); "
        "from megatron.training.arguments import add_megatron_arguments as add; flags = {}; "
        "[flags.setdefault(a.dest, []).extend(a.option_strings) "
        "for a in add(argparse.ArgumentParser(add_help=False))._actions]; print(json.dumps(flags))"
    )
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, EXAMPLES],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=True,
    )
    flags: dict[str, list[str]] = json.loads(process.stdout.splitlines()[-1])
    return flags
