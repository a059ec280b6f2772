# SPDX-License-Identifier: Apache-2.0
"""Padding against packing in Megatron's own trainer, on real conversations, in a few minutes.

    python examples/demo.py [DIR]

Tokenizes 4,008 conversations, makes two pack indexes of the same documents, one document a row and
packed, and trains a small GPT on each with pretrain_packed_gpt.py. Both runs see the same real
tokens in the same number of optimizer steps; the packed one needs fewer rows for them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import chitchat
import numpy as np
import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from megatron_packing import Corpus, PackIndex, plan_packs

EXAMPLES = Path(__file__).resolve().parent
SEQUENCE_LENGTH = 2048
STEPS = range(18, 25)  # as whole global batches allow
PACKED_ROWS_PER_STEP = 1
BEGINNING = "before the start of training step"
ITERATION = re.compile(r" iteration +(\d+)/.*lm loss: ([\d.E+-]+)")
MODEL = """
    --num-layers 4 --hidden-size 64 --num-attention-heads 4 --position-embedding-type rope
    --normalization RMSNorm --swiglu --disable-bias-linear --attention-dropout 0 --hidden-dropout 0
"""
TRAINING = """
    --micro-batch-size 1 --lr 4e-3 --lr-warmup-iters 2 --lr-decay-style constant --clip-grad 1.0
    --calculate-per-token-loss --no-create-attention-mask-in-dataloader --split 100,0,0
    --eval-iters 0 --eval-interval 1000 --log-interval 1 --num-workers 0
"""
# The demo runs on the CPU, which has gloo, and none of the fused kernels.
WITHOUT_CUDA = """
    --distributed-backend gloo --transformer-impl local --use-cpu-initialization --no-rope-fusion
    --no-gradient-accumulation-fusion --no-masked-softmax-fusion --no-bias-swiglu-fusion
    --no-bias-dropout-fusion --no-persist-layer-norm
"""
console = Console(highlight=False, markup=False)


@dataclass
class Run:
    """What a training run printed, and what its steps cost."""

    losses: list[float]
    cpu_seconds: list[float]
    """Processor time of each step that it is known of. What else runs on the machine, and how long
    the steps wait for it, is not in it."""

    @property
    def seconds(self) -> float:
        """Processor time of all steps."""
        return sum(self.cpu_seconds) / len(self.cpu_seconds) * len(self.losses)


def choose_documents(corpus: Corpus) -> tuple[int, int]:
    """Find how many documents, and steps, make whole global batches in both runs.

    The padded rows must be a multiple of the steps. The packed ones are filled up to one with empty
    rows; the choice with the fewest of them is taken.
    """
    positions = np.asarray(corpus.num_tokens) - 1
    fits = positions <= SEQUENCE_LENGTH
    best = (0.0, 0, 0)
    for count in np.flatnonzero(fits)[: 15 * max(STEPS)].tolist():
        padded_rows = int(np.count_nonzero(fits[:count]))
        steps = [number for number in STEPS if padded_rows and padded_rows % number == 0]
        if not steps:
            continue
        packed_rows = plan_packs(positions[:count], SEQUENCE_LENGTH, overlong="drop").num_packs
        for number in steps:
            filled = packed_rows / (number * PACKED_ROWS_PER_STEP)
            if filled <= 1:
                best = max(best, (filled, count, number))
    return best[1:]


def command_line(*arguments: object) -> None:
    """Run megatron-packing, showing the command."""
    words = ["megatron-packing", *map(str, arguments)]
    console.print(f"\n$ {' '.join(words)}", style="bold", soft_wrap=True)
    subprocess.run([sys.executable, "-m", "megatron_packing.cli", *words[1:]], check=True)


def trainer_flags(folder: Path, index: PackIndex, steps: int, rows_per_step: int) -> list[str]:
    """Return the flags of a run of so many steps on an index."""
    data = f"""
        --seq-length {SEQUENCE_LENGTH} --max-position-embeddings {SEQUENCE_LENGTH}
        --train-iters {steps} --global-batch-size {rows_per_step}
        --data-path {folder / "chitchat"} --packing-indexes {index.path}
        --tokenizer-type HuggingFaceTokenizer --tokenizer-model {folder / "tokenizer"}
    """
    return (MODEL + TRAINING + WITHOUT_CUDA + data).split()


def train(
    name: str,
    folder: Path,
    index: PackIndex,
    steps: int,
    rows_per_step: int,
    flags: str = "",
    *,
    ranks: int = 1,
) -> Run:
    """Train so many steps on an index, with a progress bar; ``flags`` overrule those here."""
    log_path = folder / f"{name}.log"
    words = trainer_flags(folder, index, steps, rows_per_step) + flags.split()
    scripts = [str(EXAMPLES / "cpu_trainer.py"), str(EXAMPLES / "pretrain_packed_gpt.py")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", str(ranks), *scripts]
    cores = max(1, len(os.sched_getaffinity(0)) // ranks)
    environment = dict(
        os.environ,
        OMP_NUM_THREADS=str(cores),
        OMP_WAIT_POLICY="passive",  # threads that wait take no processor time
        CUDA_VISIBLE_DEVICES="",
    )
    run = Run([], [])
    with (
        Progress(
            TextColumn(f"training {name:8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
        ) as progress,
        log_path.open("w") as log,
        subprocess.Popen(
            [*torchrun, *words],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        task = progress.add_task("starting Megatron", total=steps)
        for cpu_seconds, loss in _iterations(process, log):
            if cpu_seconds is not None:
                run.cpu_seconds.append(cpu_seconds)
            run.losses.append(loss)
            progress.update(task, advance=1, description=f"loss {loss:.3f}")
    if process.returncode != 0 or len(run.losses) != steps or not run.cpu_seconds:
        sys.exit(f"error: the {name} run failed; its output is in {log_path}")
    return run


def _iterations(process: subprocess.Popen[str], log) -> Iterator[tuple[float | None, float]]:
    """Processor time, None where it is not known, and loss of each step."""
    assert process.stdout is not None
    before: float | None = None
    for line in process.stdout:
        log.write(line)
        match = ITERATION.search(line)
        if match or BEGINNING in line:
            now = _cpu_seconds_of_children(process.pid)
            if match:
                known = before is not None and now is not None
                yield now - before if known else None, float(match[2])
            before = now


def _cpu_seconds_of_children(pid: int) -> float | None:
    """Processor time that the processes which a process started have taken; None if it ended."""
    try:
        times = [child.cpu_times() for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    return sum(time.user + time.system for time in times) if times else None


def show_results(indexes: dict[str, PackIndex], runs: dict[str, Run]) -> None:
    """Print the table."""
    tokens = {index.figures.num_positions for index in indexes.values()}
    assert len(tokens) == 1, "both runs train the same documents"
    real_tokens = tokens.pop()
    table = Table()
    table.add_column()
    for name in indexes:
        table.add_column(name, justify="right")
    seconds = {name: run.seconds for name, run in runs.items()}
    rows = {name: len(index) for name, index in indexes.items()}
    for label, cells in {
        "rows": [f"{rows[name]:,}" for name in indexes],
        "utilisation": [f"{index.figures.utilisation:.1%}" for index in indexes.values()],
        "real tokens": [f"{real_tokens:,}" for _ in runs],
        "steps": [f"{len(run.losses)}" for run in runs.values()],
        "CPU seconds": [f"{run.seconds:.1f}" for run in runs.values()],
        "real tokens / CPU second": [f"{real_tokens / run.seconds:,.0f}" for run in runs.values()],
        "first loss": [f"{run.losses[0]:.3f}" for run in runs.values()],
        "final loss (mean of 10)": [f"{np.mean(run.losses[-10:]):.3f}" for run in runs.values()],
        "speed-up": [f"{seconds['padded'] / run.seconds:.2f}" for run in runs.values()],
    }.items():
        table.add_row(label, *cells)
    console.print()
    console.print(table)
    ratio = rows["padded"] / rows["packed"]
    speed_up = seconds["padded"] / seconds["packed"]
    console.print(
        f"Packing needs {ratio:.2f} times fewer rows and {speed_up:.2f} times less processor time: "
        f"{speed_up / ratio:.0%} of the ratio of rows.",
        soft_wrap=True,
    )


def main() -> None:
    """Prepare, pack, train twice, compare."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".demo")
    conversations, tokenizer = folder / "conversations.jsonl", folder / "tokenizer"
    if folder.exists():
        if not conversations.exists():
            sys.exit(f"error: {folder} is there and not of an earlier demo; name another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    count = chitchat.write_conversations(conversations)
    chitchat.write_tokenizer(tokenizer)
    console.print(f"{count:,} conversations between people: {conversations}", soft_wrap=True)
    prefix = folder / "chitchat"
    command_line("tokenize", conversations, "--output-prefix", prefix, "--tokenizer", tokenizer)

    num_documents, steps = choose_documents(Corpus(prefix))
    indexes = {}
    for name, strategy in {"padded": "padding", "packed": "optimal"}.items():
        command_line(
            *("pack", prefix, "--sequence-length", SEQUENCE_LENGTH, "--strategy", strategy),
            *("--documents", f"0:{num_documents}", "--overlong", "drop"),
            *("--packs-multiple-of", steps, "--output", folder / name),
        )
        indexes[name] = PackIndex.open(folder / name)
    command_line("verify", folder / "packed")
    console.print("\nTraining the same documents twice with Megatron's pretrain():")
    runs = {
        name: train(name, folder, index, steps, len(index) // steps)
        for name, index in indexes.items()
    }
    show_results(indexes, runs)


if __name__ == "__main__":
    main()
