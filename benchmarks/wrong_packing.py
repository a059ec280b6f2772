"""How wrong training becomes where packing is done carelessly.

    python benchmarks/wrong_packing.py

Trains a small GPT by Megatron's own pretrain() on the CPU, from one checkpoint on the same real
conversations in every run: padded, one document a row, by Megatron's own attention; packed as this
project does; and with mistakes that others make. Prints by how much losses and gradient norms of
the optimizer steps differ from the padded run. In float32, so what is right is right to rounding.
Takes a minute on two CPU cores; needs the test suite's environment (make test).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_packing.report.console import console
from tests.trainer import Run, train

STEPS = 8
ROW = 256
PADDED_ROWS = 48  # at least the documents of four packs
MEGATRON = ROOT / "tests" / "megatron"
PIPELINE = "--pipeline-model-parallel-size 4"
TRAINING = f"""
    --seq-length {ROW} --max-position-embeddings {ROW} --vocab-size 32768 --lr 3e-3
    --packing-overlong drop --train-iters {STEPS}
"""


def compare() -> Table:
    """Run all, and tabulate them."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/chat"
        for command in (
            [sys.executable, ROOT / "examples" / "chitchat.py", folder],
            [
                *(sys.executable, "-m", "megatron_packing.cli", "tokenize"),
                *(f"{folder}/conversations.jsonl", "--output-prefix", prefix),
                *("--tokenizer", f"{folder}/tokenizer"),
            ],
        ):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        flags = f"{TRAINING} --data-path {prefix} --data-cache-path {folder}/cache"
        train(f"{flags} --train-iters 1 --save {folder}/checkpoint --save-interval 1")
        flags = f"{flags} --load {folder}/checkpoint --finetune"
        wrongly = MEGATRON / "pretrain_wrongly.py"
        padded = train(
            f"{flags} --global-batch-size {PADDED_ROWS}",
            script=MEGATRON / "pretrain_padded_gpt.py",
            timeout=300,
            environment={"PACKED_GLOBAL_BATCH_SIZE": "4"},
        )
        runs = {
            "packed": train(flags),
            "packed, 4 pipeline stages": train(f"{flags} {PIPELINE}", 4),
            "documents see their predecessors": train(f"{flags} --packing-attention pack"),
            "means of rows are averaged": train(
                flags, script=wrongly, environment={"WRONG": "averaged"}
            ),
            "middle stages lose cu_seqlens": train(
                f"{flags} {PIPELINE}", 4, script=wrongly, environment={"WRONG": "middle"}
            ),
        }
    table = Table("against padding", "loss, worst step", "loss, last step", "gradient norm, worst")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, run in runs.items():
        table.add_row(name, *differences(run, padded))
    return table


def differences(run: Run, padded: Run) -> tuple[str, str, str]:
    """Of losses, absolute; of gradient norms, relative."""
    pairs = list(zip(run.steps, padded.steps, strict=True))
    losses = [abs(step.loss - expected.loss) for step, expected in pairs]
    norms = [abs(step.grad_norm / expected.grad_norm - 1) for step, expected in pairs]
    return f"{max(losses):.1e}", f"{losses[-1]:.1e}", f"{max(norms):.1e}"


if __name__ == "__main__":
    console.print(compare())
