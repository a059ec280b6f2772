from __future__ import annotations

import pytest

from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import LOSS, ROW, needs_trainer, pretrain

pytestmark = needs_trainer
STEPS = 20


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


def test_balanced_steps_have_the_losses_of_unbalanced_ones(data, checkpoint, one_rank):
    flags = f"{data} --train-iters {STEPS} --load {checkpoint} --finetune --packing-balance"
    assert losses_of(flags, ranks=2) == pytest.approx(one_rank, abs=1e-5, rel=0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--packing-balance --dataloader-type cyclic", "--dataloader-type is cyclic"),
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
