# SPDX-License-Identifier: Apache-2.0
"""Balancing losses of experts weigh the same whatever is trained, and in every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("megatron.core")

from megatron_packing.corpus.corpus import loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import ROW, FromCheckpoint, Run, needs_trainer, train

pytestmark = needs_trainer

UNCHECKED = Path(__file__).with_name("pretrain_unchecked.py")
EXPERTS = "--num-experts 4 --moe-router-topk 2 --moe-token-dispatcher-type alltoall"
BALANCING = {
    "auxiliary": "--moe-aux-loss-coeff 20 --moe-router-load-balancing-type aux_loss",
    "by sequence": "--moe-aux-loss-coeff 20 --moe-router-load-balancing-type seq_aux_loss",
    "global": "--moe-aux-loss-coeff 20 --moe-router-load-balancing-type global_aux_loss",
    "z": "--moe-router-load-balancing-type none --moe-z-loss-coeff 20",
}


def assert_equal(run: Run, expected: Run) -> None:
    assert len(run.steps) == len(expected.steps) == 3
    for step, other in zip(run.steps, expected.steps, strict=True):
        assert step.loss == pytest.approx(other.loss, abs=1e-6, rel=0)
        assert step.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)


@pytest.fixture(scope="module")
def equally_trained(tmp_path_factory):
    """Flags of runs on documents that fill a row each, with one label in so many trained."""
    corpora: dict[int, str] = {}

    def flags(one_in: int) -> str:
        if one_in not in corpora:
            prefix = tmp_path_factory.mktemp("share") / "corpus"
            write_corpus(prefix, [ROW + 1] * 40, with_loss_mask=False)
            trained = np.arange(ROW + 1) % one_in == 1 % one_in
            with IndexedDatasetWriter(loss_mask_prefix(prefix), np.dtype(np.uint8)) as masks:
                masks.add(np.tile(trained, 40), np.full(40, ROW + 1))
            corpora[one_in] = f"--data-path {prefix} --train-iters 3 {EXPERTS}"
        return corpora[one_in]

    return flags


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "one_in"),
    [
        pytest.param("auxiliary", 1, marks=pytest.mark.slow),
        ("auxiliary", 16),
        ("z", 16),
        pytest.param("auxiliary", 2, marks=pytest.mark.slow),
        pytest.param("by sequence", 16, marks=pytest.mark.slow),
        pytest.param("global", 16, marks=pytest.mark.slow),
    ],
)
def test_they_weigh_what_they_do_where_the_loss_is_averaged_over_micro_batches(
    equally_trained, kind, one_in
):
    """Which is the same for rows like these, whatever share of their tokens is trained."""
    flags = f"{equally_trained(one_in)} {BALANCING[kind]}"
    averaged = train(flags, script=UNCHECKED, without="--calculate-per-token-loss")
    assert averaged.steps[0].grad_norm > 1  # the router's share, mostly
    assert_equal(train(flags), averaged)


@pytest.mark.parametrize("normaliser", ["sequence", pytest.param("turn", marks=pytest.mark.slow)])
def test_no_normaliser_changes_their_weight(equally_trained, normaliser):
    flags = f"{equally_trained(16)} {BALANCING['auxiliary']}"
    run = train(f"{flags} --packing-normaliser {normaliser}")
    by_tokens = train(flags)
    norms = [[step.grad_norm for step in each.steps] for each in (run, by_tokens)]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)  # the other losses are other ones


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Flags of runs of a model on rows with padding that start from one checkpoint."""
    folder = tmp_path_factory.mktemp("layouts")
    corpus = write_corpus(folder / "corpus", chat_like_lengths(150, longest=ROW // 2))
    flags = (
        f"--data-path {corpus.prefix} --data-cache-path {folder / 'cache'} {EXPERTS} "
        f"--packing-alignment 4 --packing-strategy padding"
    )
    return FromCheckpoint(flags, folder, 3)


@pytest.fixture(scope="module")
def one_rank(uneven):
    runs: dict[str, Run] = {}

    def run(balancing: str, model: str) -> Run:
        key = f"{balancing} {model}"
        if key not in runs:
            runs[key] = train(f"{uneven(model)} {balancing}")
        return runs[key]

    return run


BOTH = f"{BALANCING['auxiliary']} --moe-z-loss-coeff 20"
RECOMPUTED = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("balancing", "layout", "ranks"),
    [
        (BALANCING["auxiliary"], "--context-parallel-size 2", 2),
        (BOTH, "--tensor-model-parallel-size 2 --sequence-parallel", 2),
        pytest.param(
            BOTH, f"--pipeline-model-parallel-size 4 {RECOMPUTED}", 4, marks=pytest.mark.slow
        ),
        pytest.param(
            BALANCING["by sequence"],
            "--context-parallel-size 2",
            2,
            marks=pytest.mark.slow,
        ),
        pytest.param(BALANCING["global"], "--context-parallel-size 2", 2, marks=pytest.mark.slow),
        pytest.param(
            BALANCING["auxiliary"],
            "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1",
            2,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            BALANCING["auxiliary"], "--expert-model-parallel-size 2", 2, marks=pytest.mark.slow
        ),
    ],
)
def test_they_are_the_same_in_every_layout(uneven, one_rank, balancing, layout, ranks):
    assert_equal(train(f"{uneven()} {balancing} {layout}", ranks), one_rank(balancing, ""))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        "--tensor-model-parallel-size 2 --sequence-parallel",
        f"--context-parallel-size 2 {RECOMPUTED}",
    ],
)
def test_those_of_multi_token_prediction_are_the_same_too(uneven, one_rank, layout):
    model = "--mtp-num-layers 2"
    assert_equal(train(f"{uneven(model)} {BOTH} {layout}", 2), one_rank(BOTH, model))
