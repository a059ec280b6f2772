"""Starts examples/pretrain_packed_gpt.py, and so Megatron's own pretrain(), on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import EXAMPLES

try:
    HAS_TRAINER = importlib.util.find_spec("megatron.training") is not None
except ModuleNotFoundError:
    HAS_TRAINER = False
needs_trainer = pytest.mark.skipif(
    not HAS_TRAINER,
    reason="megatron.training is not installed: megatron-core's wheel holds it from 0.17 on only",
)

ROW = 128
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
LOSS = re.compile(r" iteration +(\d+)/.*lm loss: ([\d.E+-]+)")


def pretrain(flags: str, ranks: int = 1, without: str = "") -> tuple[int, str]:
    """Run the example script through the CPU launcher; returns its exit status and output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), str(EXAMPLES / "cpu_trainer.py")]
    words = (MODEL + CPU + TRAINING + flags).replace(without, "").split()
    command += [str(EXAMPLES / "pretrain_packed_gpt.py"), *words]
    # Megatron asks for one connection under tensor parallelism; no device hides the GPUs.
    settings = {"OMP_NUM_THREADS": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    environment = {**os.environ, **settings, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return process.returncode, process.stdout
