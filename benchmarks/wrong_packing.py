# SPDX-License-Identifier: Apache-2.0
"""How wrong training becomes where packing is done carelessly.

    python benchmarks/wrong_packing.py [--steps N] [--vocabulary N] [--json FILE]

Trains a small GPT by Megatron's own pretrain() on the CPU, from one checkpoint on the same real
conversations in every run: padded, one document a row, by Megatron's own unpacked attention; packed
as this project does; and with mistakes that others make. Prints by how much losses and gradient
norms of the optimizer steps differ from the padded run. Multi-token prediction and experts are
compared likewise with what Megatron alone makes of their losses. In float32, so what is right is
right to rounding. Takes four minutes on two cores, in the test suite's environment (make test).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from machine import write_json
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.study.table5 import prepare  # noqa: E402
from megatron_packing.report.console import console  # noqa: E402
from tests.trainer import FromCheckpoint, PaddedRuns, Run, train  # noqa: E402

ROW = 256
DOCUMENTS = 4008
PADDED_ROWS = 48  # at least the documents of four packs
MEGATRON = ROOT / "tests" / "megatron"
PIPELINE = "--pipeline-model-parallel-size 4"
MULTI_TOKEN = "--mtp-num-layers 1 --mtp-loss-scaling-factor 0.3"
EXPERTS = (
    "--num-experts 4 --moe-router-topk 2 --moe-token-dispatcher-type alltoall "
    "--moe-router-load-balancing-type aux_loss --moe-aux-loss-coeff 0.01"
)
TRAINING = f"""
    --seq-length {ROW} --max-position-embeddings {ROW} --lr 3e-3
    --packing-overlong drop
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a run from the padded one."""

    run: str
    loss: float
    """Absolute, at the worst step."""
    grad_norm: float
    """Relative, at the worst step."""

    @classmethod
    def between(cls, name: str, run: Run, padded: Run) -> Difference:
        """Compare step by step."""
        pairs = list(zip(run.steps, padded.steps, strict=True))
        return cls(
            name,
            max(abs(step.loss - expected.loss) for step, expected in pairs),
            max(abs(step.grad_norm / expected.grad_norm - 1) for step, expected in pairs),
        )


def compare(steps: int, vocabulary: int | None) -> dict[str, list[Difference]]:
    """Train in all ways; see ``benchmarks.study.table5.prepare`` for the vocabulary.

    Returns:
        Differences by what runs are compared with.
    """
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(Path(folder), DOCUMENTS, vocabulary)
        flags = (
            f"{TRAINING} --vocab-size {vocabulary or 32768} --data-path {corpus.prefix} "
            f"--data-cache-path {folder}/cache"
        )
        # With a mask that trains no first token, Megatron's own count of targets is right.
        everything = Path(folder) / "all_trained"
        for suffix in ("bin", "idx"):
            shutil.copy(f"{corpus.prefix}.{suffix}", f"{everything}.{suffix}")
        multi_token = f"{MULTI_TOKEN} --data-path {everything}"

        begin = FromCheckpoint(flags, Path(folder), steps)

        def padded(script: str, model: str = "") -> Run:
            return PaddedRuns(MEGATRON / script, begin, PADDED_ROWS)(model=model)

        def wrong(mistake: str, flags: str, ranks: int = 1) -> Run:
            script = MEGATRON / "pretrain_wrongly.py"
            return train(flags, ranks, script=script, environment={"WRONG": mistake})

        dense = begin()
        comparisons = {
            "against padding": (
                padded("pretrain_padded_gpt.py"),
                {
                    "packed": train(dense),
                    "packed, 4 pipeline stages": train(f"{dense} {PIPELINE}", 4),
                    "documents see those before them": train(f"{dense} --packing-attention pack"),
                    "means of rows are averaged": wrong("averaged", dense),
                    "middle stages lose cu_seqlens": wrong("middle", f"{dense} {PIPELINE}", 4),
                },
            ),
            "multi-token prediction, all tokens trained, against padding": (
                padded("pretrain_padded_multi_token.py", multi_token),
                {
                    "packed": train(begin(multi_token)),
                    "Megatron's own losses": wrong("multi-token", begin(multi_token)),
                },
            ),
            "experts, against packed rows": (
                train(begin(EXPERTS)),
                {"Megatron's own balancing losses": wrong("balancing", begin(EXPERTS))},
            ),
        }
    return {
        title: [Difference.between(name, run, right) for name, run in runs.items()]
        for title, (right, runs) in comparisons.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument(
        "--vocabulary",
        type=int,
        metavar="N",
        help="train a tokenizer of N tokens, which is faster (default: the example's of 32,768)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    differences = compare(args.steps, args.vocabulary)
    for title, of_title in differences.items():
        table = Table(title, "loss differs by", "gradient norm differs by")
        for column in table.columns[1:]:
            column.justify = "right"
        for found in of_title:
            table.add_row(found.run, f"{found.loss:.1e}", f"{found.grad_norm:.1e}")
        console.print(table)
    if args.json is not None:
        results = {title: [asdict(one) for one in found] for title, found in differences.items()}
        write_json(args.json, results)


if __name__ == "__main__":
    main()
