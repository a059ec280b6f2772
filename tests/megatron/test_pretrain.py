from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import EXAMPLES, chat_like_lengths, write_corpus

try:
    HAS_TRAINER = importlib.util.find_spec("megatron.training") is not None
except ModuleNotFoundError:
    HAS_TRAINER = False
pytestmark = pytest.mark.skipif(
    not HAS_TRAINER,
    reason="megatron.training is not installed: megatron-core's wheel holds it from 0.17 on only",
)

ROW = 128
STEPS = 20
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
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_DEVICE_MAX_CONNECTIONS="1")
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


def losses_of(flags: str, ranks: int = 1) -> list[float]:
    status, output = pretrain(flags, ranks)
    assert status == 0, output[-5000:]
    return [float(loss) for _, loss in LOSS.findall(output)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainer")
    return write_corpus(folder / "corpus", chat_like_lengths(150, longest=ROW))


@pytest.fixture(scope="module")
def data(corpus):
    return f"--data-path {corpus.prefix} --data-cache-path {corpus.prefix.parent / 'cache'}"


@pytest.fixture(scope="module")
def checkpoint(data, corpus):
    """Weights to start every layout from: initial ones depend on the layout."""
    path = corpus.prefix.parent / "checkpoint"
    losses_of(f"{data} --train-iters 1 --save {path} --save-interval 1")
    return path


@pytest.fixture(scope="module")
def one_rank(data, checkpoint):
    losses = losses_of(f"{data} --train-iters {STEPS} --load {checkpoint} --finetune")
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.1
    return losses


@pytest.mark.parametrize(
    ("flags", "ranks"),
    [
        ("--tensor-model-parallel-size 2", 2),
        ("--tensor-model-parallel-size 2 --sequence-parallel", 2),
        ("--pipeline-model-parallel-size 2", 2),
        ("", 2),
        ("--use-distributed-optimizer", 2),
    ],
    ids=["TP=2", "TP=2 and sequence parallel", "PP=2", "DP=2", "DP=2 and distributed optimizer"],
)
def test_a_parallel_run_has_the_losses_of_one_rank(data, checkpoint, one_rank, flags, ranks):
    losses = losses_of(
        f"{data} --train-iters {STEPS} --load {checkpoint} --finetune {flags}", ranks
    )
    assert losses == pytest.approx(one_rank, abs=1e-5, rel=0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--micro-batch-size 2", "--micro-batch-size is 2"),
        ("--packing-indexes /nowhere", "/nowhere is not a pack index"),
        ("--seq-length 64", "longer than the sequence length 64"),
        ("--data-path /nowhere", "/nowhere.idx does not exist"),
    ],
)
def test_a_wrong_setting_stops_the_run_with_one_sentence(data, flags, message):
    status, output = pretrain(f"{data} --train-iters 1 {flags}")
    assert status != 0
    (line,) = (line for line in output.splitlines() if "error: " in line and message in line)
    assert "Traceback" not in output.split(line)[0]
    assert not LOSS.search(output)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--calculate-per-token-loss", "error: without --calculate-per-token-loss"),
        ("--no-create-attention-mask-in-dataloader", "error: the dataloader would make attention"),
    ],
)
def test_without_a_flag_that_packing_needs_the_run_is_refused(data, flag, message):
    status, output = pretrain(f"{data} --train-iters 1", without=flag)
    assert status != 0
    assert message in output
    assert not LOSS.search(output)
