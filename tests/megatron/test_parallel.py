# SPDX-License-Identifier: Apache-2.0
"""Packed training is padded training, in every parallel layout, under every normaliser."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_packing.thd.loss_weights import NORMALISERS
from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import (
    PRETRAIN_PACKED,
    ROW,
    FromCheckpoint,
    PaddedRuns,
    Run,
    needs_trainer,
    padded_batches,
    train,
)

pytestmark = needs_trainer

STEPS = 3
PADDED = Path(__file__).with_name("pretrain_padded_gpt.py")
FROZEN = PADDED.with_name("pretrain_frozen.py")
PADDED_ROWS = 40  # at least the documents of four packs
LAYOUTS = {
    "one rank": ("", 1),
    "TP=2 with sequence parallel": ("--tensor-model-parallel-size 2 --sequence-parallel", 2),
    "PP=2": ("--pipeline-model-parallel-size 2", 2),
    "PP=2 with virtual stages": (
        "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1",
        2,
    ),
    "PP=4": ("--pipeline-model-parallel-size 4", 4),
    "CP=2": ("--context-parallel-size 2", 2),
    "CP=2 with TP=2": ("--context-parallel-size 2 --tensor-model-parallel-size 2", 4),
    "DP=2 with distributed optimizer": ("--use-distributed-optimizer", 2),
}
EXPERTS = "--num-experts 4 --moe-router-topk 2 --moe-router-load-balancing-type none"
# What changes the model or how it is computed, beside what is packed.
MODELS = {
    "recomputation": (
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
    ),
    "selective recomputation": "--recompute-granularity selective",
    "grouped queries": "--group-query-attention --num-query-groups 2",
    "query and key norms": "--qk-layernorm",
    "learned positions": "--position-embedding-type learned_absolute",
    "softmax scale by layer": "--apply-query-key-layer-scaling --attention-softmax-in-fp32",
    "interleaved rotation": "--rotary-interleaved",
    "experts": EXPERTS,
}


# Those that are trained when slow tests are left out: each layout and each normalizer, once.
QUICK_RUNS = {
    ("one rank", "token"),
    ("TP=2 with sequence parallel", "token"),
    ("PP=2 with virtual stages", "turn"),
    ("CP=2", "sequence"),
}


def slow_unless(quick: bool, *values: object):
    return pytest.param(*values, marks=() if quick else pytest.mark.slow)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    return write_corpus(folder / "corpus", chat_like_lengths(150, longest=ROW))


@pytest.fixture(scope="module")
def data(corpus):
    cache = corpus.prefix.parent / "cache"
    return f"--data-path {corpus.prefix} --data-cache-path {cache} --packing-alignment 4"


@pytest.fixture(scope="module")
def begin(data, corpus):
    return FromCheckpoint(data, corpus.prefix.parent, STEPS)


@pytest.fixture(scope="module")
def padded(begin):
    """A padded run of the same documents on one rank, by Megatron's own attention."""
    return PaddedRuns(PADDED, begin, PADDED_ROWS)


# Four units in the last place of a float32 between 4 and 8, which losses are here: processors add
# in other orders (5.559544 on one, 5.559543 padded).
LOSS = 2e-6


def assert_equal(run: Run, reference: Run) -> None:
    assert len(run.steps) == len(reference.steps) == STEPS
    for step, expected in zip(run.steps, reference.steps, strict=True):
        assert step.loss == pytest.approx(expected.loss, abs=LOSS, rel=0)
        assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)


@pytest.mark.parametrize(
    ("layout", "normaliser"),
    [
        slow_unless((layout, normaliser) in QUICK_RUNS, layout, normaliser)
        for layout in LAYOUTS
        for normaliser in NORMALISERS
    ],
)
def test_a_packed_run_has_losses_and_gradient_norms_of_a_padded_one(
    begin, padded, layout, normaliser
):
    flags, ranks = LAYOUTS[layout]
    run = train(f"{begin()} --packing-normaliser {normaliser} {flags}", ranks)
    assert_equal(run, padded(normaliser))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layout", "ranks"),
    [
        ("", "--pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers 1", 2),
        ("", "--pipeline-model-parallel-size 3 --pipeline-model-parallel-layout Ett|tt|L", 3),
        (
            MODELS["query and key norms"],
            "--tensor-model-parallel-size 2 --sequence-parallel",
            2,
        ),
    ],
    ids=["uneven stages", "a layout of stages", "query and key norms, TP=2"],
)
def test_so_has_one_in_a_rarer_layout(begin, padded, model, layout, ranks):
    assert_equal(train(f"{begin(model)} {layout}", ranks), padded("token", model))


def test_normalisers_differ(padded):
    losses = {padded(normaliser).steps[0].loss for normaliser in NORMALISERS}
    assert max(losses) - min(losses) > 1e-3
    assert len(losses) == len(NORMALISERS)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_what_the_model_is_made_of_changes_nothing(begin, padded, model):
    flags = MODELS[model]
    run = train(f"{begin(flags)} --packing-normaliser sequence")
    assert_equal(run, padded("sequence", flags))


@pytest.mark.slow
def test_nor_do_l2_norms_of_queries_and_keys(begin, padded):
    """With experts: Megatron's own layers without Transformer Engine ignore the flag elsewhere.

    In the first step: the norms divide by small lengths, so Adam makes more of rounding later.
    """
    model = f"{EXPERTS} --qk-l2-norm"
    step, expected = train(begin(model)).steps[0], padded("token", model).steps[0]
    assert step.loss == pytest.approx(expected.loss, abs=LOSS, rel=0)
    assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)


@pytest.fixture(scope="module")
def frozen(begin):
    return train(
        f"{begin()} {padded_batches(PADDED_ROWS)}",
        script=FROZEN,
        environment={"SCRIPT": str(PADDED), "PACKED_GLOBAL_BATCH_SIZE": "4"},
    )


@pytest.mark.parametrize("layout", ["one rank", "TP=2 with sequence parallel", "PP=2", "CP=2"])
@pytest.mark.slow
def test_frozen_parameters_change_nothing(begin, frozen, layout):
    flags, ranks = LAYOUTS[layout]
    run = train(
        f"{begin()} {flags}", ranks, script=FROZEN, environment={"SCRIPT": str(PRETRAIN_PACKED)}
    )
    assert_equal(run, frozen)


@pytest.mark.parametrize(
    ("layout", "ranks"),
    [
        ("--expert-model-parallel-size 2", 2),
        ("--pipeline-model-parallel-size 2", 2),
        ("--context-parallel-size 2", 2),
        ("--tensor-model-parallel-size 2 --sequence-parallel", 2),
        (
            "--tensor-model-parallel-size 2 --sequence-parallel --pipeline-model-parallel-size 2 "
            "--expert-model-parallel-size 2 --expert-tensor-parallel-size 1",
            4,
        ),
    ],
)
@pytest.mark.slow
def test_experts_train_alike_in_every_layout(begin, padded, layout, ranks):
    model = f"{MODELS['experts']} --moe-token-dispatcher-type alltoall"
    run = train(f"{begin(model)} {layout}", ranks)
    assert_equal(run, padded("token", model))


@pytest.mark.slow
@pytest.mark.parametrize(
    "balancing",
    [
        "--moe-router-load-balancing-type aux_loss --moe-aux-loss-coeff 0.5",
        "--moe-router-load-balancing-type seq_aux_loss --moe-aux-loss-coeff 0.5",
        "--moe-router-load-balancing-type none --moe-z-loss-coeff 0.5",
    ],
    ids=["auxiliary loss", "auxiliary loss by sequence", "z loss"],
)
def test_routers_do_not_count_padding(begin, balancing):
    model = f"--num-experts 4 --moe-router-topk 2 {balancing} --packing-strategy padding"
    longer = f"--seq-length {2 * ROW} --max-position-embeddings {2 * ROW}"
    short, long = (train(f"{begin(model)} {rows}") for rows in ("", longer))
    assert_equal(long, short)


@pytest.mark.slow
def test_documents_that_see_each_other_do_not_see_pads(begin):
    flags = f"{begin()} --packing-attention pack"
    one = train(f"{flags} --null-tokenizer-pad-id 0")
    other = train(f"{flags} --null-tokenizer-pad-id 77 --context-parallel-size 2", ranks=2)
    assert one.rows != other.rows  # the pads differ
    for found, expected in zip(other.steps, one.steps, strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=1e-6)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["optim_grads_params", "optim"])
def test_megatron_fsdp_trains_as_the_distributed_optimizer_does(data, sharded):
    """From the same initial weights: it has checkpoints of its own."""
    flags = f"{data} --train-iters {STEPS} --use-distributed-optimizer"
    fsdp = (
        f"--use-megatron-fsdp --data-parallel-sharding-strategy {sharded} --ckpt-format "
        f"fsdp_dtensor"
    )
    run = train(f"{flags} {fsdp}", 2, environment={"CUDA_DEVICE_MAX_CONNECTIONS": "8"})
    assert_equal(run, train(flags, 2))
