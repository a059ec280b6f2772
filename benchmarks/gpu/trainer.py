# SPDX-License-Identifier: Apache-2.0
"""The stages in processes of their own: Megatron's real trainer, and the tests marked gpu."""

from __future__ import annotations

import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ground import ROOT, Ground

from megatron_packing import PackIndex

TIME = re.compile(r"iteration +\d+/.*elapsed time per iteration \(ms\): ([\d.]+)")
LOSS = re.compile(r"lm loss: ([\d.E+-]+)")
NORM = re.compile(r"grad norm: ([\d.E+-]+)")
PRETRAIN = ROOT / "examples" / "pretrain_packed_gpt.py"
COMMON = """
    --position-embedding-type rope --normalization RMSNorm --swiglu --disable-bias-linear
    --attention-dropout 0 --hidden-dropout 0 --untie-embeddings-and-output-weights
    --micro-batch-size 1 --lr 1e-4 --lr-decay-style constant --clip-grad 1.0
    --calculate-per-token-loss --no-create-attention-mask-in-dataloader --split 100,0,0
    --eval-iters 0 --eval-interval 1000 --log-interval 1
"""
ON_A_GPU = """
    --num-layers 12 --hidden-size 2048 --ffn-hidden-size 8192 --num-attention-heads 32
    --group-query-attention --num-query-groups 8 --bf16 --use-distributed-optimizer
    --transformer-impl transformer_engine --no-gradient-accumulation-fusion --num-workers 2
"""
FUSED_LOSS = "--cross-entropy-loss-fusion --cross-entropy-fusion-impl native"
EXPERTS = """
    --num-experts 4 --moe-router-topk 2 --moe-router-load-balancing-type aux_loss
    --moe-aux-loss-coeff 0.01 --moe-token-dispatcher-type alltoall --moe-ffn-hidden-size 1024
"""
DRY = """
    --num-layers 2 --hidden-size 64 --num-attention-heads 4 --num-workers 0
    --distributed-backend gloo --transformer-impl local --use-cpu-initialization --no-rope-fusion
    --no-gradient-accumulation-fusion --no-masked-softmax-fusion --no-bias-swiglu-fusion
    --no-bias-dropout-fusion --no-persist-layer-norm
"""


@dataclass(frozen=True, slots=True)
class TrainerRun:
    """A run of Megatron's pretrain() in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def finish(self, steps: int) -> str:
        """Wait, and return what it printed.

        Raises:
            RuntimeError: It did not train so many steps.
        """
        status = self.process.wait()
        text = self.log.read_text(errors="replace")
        if status or len(TIME.findall(text)) != steps:
            raise RuntimeError(f"{self.log.name} ended with {status}: {text[-1500:]}")
        return text


def pack(ground: Ground, prefix: Path, row: int, strategy: str, output: Path) -> PackIndex:
    """Pack the first documents of a corpus."""
    documents = "0:200" if ground.dry else "0:4000"
    subprocess.run(
        f"{sys.executable} -P -m megatron_packing.cli pack {prefix} --sequence-length {row} "
        f"--strategy {strategy} --overlong truncate --documents {documents} "
        f"--output {output}".split(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return PackIndex.open(output)


def start_run(
    ground: Ground,
    name: str,
    index: PackIndex,
    flags: str,
    *,
    script: Path = PRETRAIN,
    environment: Mapping[str, str] | None = None,
) -> TrainerRun:
    """Start a run on an index of the first corpus.

    Args:
        ground: Of the run.
        name: Its log is ``trainer_NAME.log``.
        index: Its rows.
        flags: Later ones overrule those above.
        script: What trains.
        environment: Variables beside those of this process.
    """
    row = index.plan.sequence_length
    words = f"""
        {COMMON} {DRY if ground.dry else ON_A_GPU}
        --seq-length {row} --max-position-embeddings {row}
        --data-path {ground.corpora[0][1]} --packing-indexes {index.path}
        --tokenizer-type HuggingFaceTokenizer --tokenizer-model {ground.tokenizer} {flags}
    """
    scripts = [str(script)]
    if ground.dry:
        scripts.insert(0, str(ROOT / "examples" / "cpu_trainer.py"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *scripts]
    path = ground.out / f"trainer_{name}.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            [*torchrun, *words.split()],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
        )
    return TrainerRun(process, path)


def train(ground: Ground) -> None:
    """Megatron's pretrain() on the same documents, one in a row and packed.

    Documents are truncated to half of the first sequence length, and a step holds about the same
    real tokens both ways. A third run has experts, whose balancing losses this project weighs.
    """
    row = ground.rows[0] // (1 if ground.dry else 2)
    result: dict[str, Any] = {"row": row, "runs": {}}
    steps = 3 if ground.dry else 12
    folder = Path(tempfile.mkdtemp())
    packs = {
        name: pack(ground, ground.corpora[0][1], row, strategy, folder / name)
        for name, strategy in {"packed": "optimal", "padded": "padding"}.items()
    }
    ratio = len(packs["padded"]) / len(packs["packed"])
    packs["experts"] = packs["packed"]
    for name, index in packs.items():
        batch = round(4 * ratio) if name == "padded" else 4
        flags = f"{FUSED_LOSS} --train-iters {steps} --global-batch-size {batch}"
        if name == "experts":
            flags += EXPERTS + ("" if ground.dry else " --moe-grouped-gemm")
        text = start_run(ground, name, index, flags).finish(steps)
        times, losses = (
            [float(value) for value in pattern.findall(text)] for pattern in (TIME, LOSS)
        )
        settled = times[2:] or times[-1:]
        seconds = statistics.median(settled) / 1e3
        real = index.figures.num_positions / len(index) * batch
        result["runs"][name] = {
            "rows": len(index),
            "rows_per_step": batch,
            "seconds_per_step": seconds,
            "milliseconds": times,
            "tokens_per_second": real / seconds,
            "losses": losses,
            "packing_check": checks_of(text),
        }
        ground.save("trainer", result)
    packed, padded = (result["runs"][name]["tokens_per_second"] for name in ("packed", "padded"))
    result["faster"], result["ratio_of_rows"] = packed / padded, ratio
    finite = all(math.isfinite(x) for run in result["runs"].values() for x in run["losses"])
    result["ok"] = ground.dry or (finite and packed / padded >= 0.95 * ratio)
    ground.save("trainer", result)


def checks_of(text: str) -> list[str]:
    """What the packing check said in a log."""
    return re.findall(r"> packing check: (.*)", text)


def run_tests(ground: Ground) -> None:
    """The tests marked ``gpu``."""
    log = ground.out / "tests.log"
    words = ["-P", "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/thd"]
    with log.open("w") as output:
        code = subprocess.run(
            [sys.executable, *words], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        ).returncode
    last = log.read_text().strip().splitlines()[-1:]
    passed = code == 0 and "skipped" not in "".join(last)
    ground.save("tests", {"exit": code, "last_line": "".join(last), "ok": passed or ground.dry})
