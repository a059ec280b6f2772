# SPDX-License-Identifier: Apache-2.0
"""Multi-token prediction of packed rows is that of padded ones, in every layout."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

import torch

from megatron_packing.megatron.multi_token import next_positions
from megatron_packing.thd.context_parallel import partition_indices
from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import ROW, FromCheckpoint, PaddedRuns, Run, needs_trainer, train

STEPS = 3
PADDED = Path(__file__).with_name("pretrain_padded_multi_token.py")
PADDED_ROWS = 40  # at least the documents of four packs
LOSS = 2e-6  # four units in the last place of a loss between 4 and 8
HYBRID = "--hybrid-layer-pattern *-*-*-*-/*-/*-"
DEPTHS = "--mtp-num-layers 2 --mtp-loss-scaling-factor 0.3"


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_next_position_is_that_of_the_document_wherever_it_is_held(size):
    random = torch.Generator().manual_seed(size)
    for _ in range(100):
        count = int(torch.randint(1, 9, (), generator=random))
        lengths = torch.randint(0, 5, (count,), generator=random) * 2 * size
        if not lengths.sum():
            continue
        real = (torch.rand(count, generator=random) * (lengths + 1)).long().clamp(max=lengths)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        held = [partition_indices(offsets, size, rank) for rank in range(size)]
        everywhere = torch.cat(held).tolist()
        documents = [
            range(start, start + length)
            for start, length in zip(offsets.tolist(), real.tolist(), strict=False)
        ]
        expected = {at: at + 1 for document in documents for at in document[:-1]}
        for rank, positions in enumerate(held):
            source, exists = next_positions(
                offsets.int(), real.int(), len(positions), size=size, rank=rank
            )
            found = {
                at: everywhere[place]
                for at, place, there in zip(
                    positions.tolist(), source.tolist(), exists.tolist(), strict=True
                )
                if there
            }
            assert found == {at: expected[at] for at in positions.tolist() if at in expected}


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """Flags that start a run from one checkpoint."""
    folder = tmp_path_factory.mktemp("multi_token")
    corpus = write_corpus(folder / "corpus", chat_like_lengths(150, longest=ROW))
    data = f"--data-path {corpus.prefix} --data-cache-path {folder / 'cache'} --packing-alignment 4"
    return FromCheckpoint(data, folder, STEPS)


@pytest.fixture(scope="module")
def padded(begin):
    """A padded run of the same documents on one rank, with losses that are written out."""
    return PaddedRuns(PADDED, begin, PADDED_ROWS)


def assert_equal(run: Run, reference: Run) -> None:
    assert len(run.steps) == len(reference.steps) == STEPS
    for step, expected in zip(run.steps, reference.steps, strict=True):
        assert step.loss == pytest.approx(expected.loss, abs=LOSS, rel=0)
        assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
        assert expected.others.keys() <= step.others.keys()
        for name, loss in expected.others.items():
            assert step.others[name] == pytest.approx(loss, abs=LOSS, rel=0)


def slow(*values: object):
    return pytest.param(*values, marks=pytest.mark.slow)


@needs_trainer
@pytest.mark.parametrize(
    ("normaliser", "model", "layout", "ranks"),
    [
        ("token", "", "", 1),
        ("sequence", "", "--context-parallel-size 2", 2),
        ("turn", "", "--pipeline-model-parallel-size 2", 2),
        slow("token", "", "--tensor-model-parallel-size 2 --sequence-parallel", 2),
        slow(
            "token",
            "",
            "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1",
            2,
        ),
        slow("sequence", "", "--context-parallel-size 2 --tensor-model-parallel-size 2", 4),
        slow("token", "", "--use-distributed-optimizer", 2),
        slow(
            "token",
            "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
            "",
            1,
        ),
        slow("token", "--mtp-use-repeated-layer", "", 1),
        slow("token", "--mtp-detach-heads", "--pipeline-model-parallel-size 2", 2),
        ("token", HYBRID, "", 1),
        slow("sequence", HYBRID, "--context-parallel-size 2", 2),
        slow("token", HYBRID, "--tensor-model-parallel-size 2 --sequence-parallel", 2),
        slow(
            "token",
            HYBRID,
            "--pipeline-model-parallel-size 2 --hybrid-layer-pattern *-*-|*-*-/*-/*-",
            2,
        ),
        slow(
            "token",
            "",
            "--pipeline-model-parallel-size 4 --pipeline-model-parallel-layout Et|t|t|tmmL",
            4,
        ),
        slow(
            "token",
            "--num-experts 4 --moe-router-topk 2 --moe-router-load-balancing-type none",
            "--expert-model-parallel-size 2",
            2,
        ),
    ],
)
def test_losses_and_gradients_are_those_of_padded_rows(
    begin, padded, normaliser, model, layout, ranks
):
    model = f"{DEPTHS} {model}"
    run = train(f"{begin(model)} {layout} --packing-normaliser {normaliser}", ranks)
    assert_equal(run, padded(normaliser, model))
    assert all("mtp_2_acceptance_rate" in step.others for step in run.steps)


@needs_trainer
def test_evaluations_log_the_losses_and_half_precision_rounds_them(begin):
    model = begin(DEPTHS)
    evaluated = "--split 80,20,0 --eval-iters 2 --eval-interval 3"
    run = train(f"{model} {evaluated} --bf16")
    exact = train(f"{model} --split 80,20,0")
    assert "mtp_2 loss value: " in run.output
    for rounded, step in zip(run.steps, exact.steps, strict=True):
        for name in ("mtp_1 loss", "mtp_2 loss"):
            assert rounded.others[name] == pytest.approx(step.others[name], abs=0.02)
    assert run.steps != exact.steps
