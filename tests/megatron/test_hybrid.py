# SPDX-License-Identifier: Apache-2.0
"""HybridModel trains as GPTModel does, from one checkpoint of a GPTModel, in each layout."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import ROW, needs_trainer, train

pytestmark = needs_trainer

STEPS = 5
# Flags of both, flags of GPTModel alone, the pattern of HybridModel (X is an MLP), ranks.
LAYOUTS = {
    "one rank": ("", "", "*X*X*X*X", 1),
    "TP=2 with sequence parallel": (
        "--tensor-model-parallel-size 2 --sequence-parallel",
        "",
        "*X*X*X*X",
        2,
    ),
    "PP=2": ("--pipeline-model-parallel-size 2", "", "*X*X|*X*X", 2),
    "PP=2, cut within a layer of GPTModel": (
        "--pipeline-model-parallel-size 2",
        "",
        "*X*|X*X*X",
        2,
    ),
    "PP=2 with virtual stages": (
        "--pipeline-model-parallel-size 2",
        "--num-layers-per-virtual-pipeline-stage 1",
        "*X|*X|*X|*X",
        2,
    ),
    "CP=2": ("--context-parallel-size 2", "", "*X*X*X*X", 2),
    "DP=2 with distributed optimizer": ("--use-distributed-optimizer", "", "*X*X*X*X", 2),
}
BALANCED = (
    "--num-experts 4 --moe-router-topk 2 --moe-router-load-balancing-type aux_loss "
    "--moe-aux-loss-coeff 0.5 --moe-token-dispatcher-type alltoall"
)
EXPERT_LAYOUTS = {
    name: LAYOUTS[name]
    for name in ("TP=2 with sequence parallel", "PP=2 with virtual stages", "CP=2")
} | {
    "PP=2 with TP=2, EP=2 and sequence parallel": (
        "--tensor-model-parallel-size 2 --sequence-parallel --pipeline-model-parallel-size 2 "
        "--expert-model-parallel-size 2 --expert-tensor-parallel-size 1",
        "",
        "*X*X|*X*X",
        4,
    ),
}
UNTIED = "--untie-embeddings-and-output-weights"
# What a model is made of: flags beside MODEL, and what of MODEL is left out.
PARTS = {
    "LayerNorm, biases, learned positions, shared embeddings": (
        "--position-embedding-type learned_absolute --normalization LayerNorm --add-qkv-bias",
        UNTIED,
    ),
    "grouped queries and their norms, recomputed": (
        "--group-query-attention --num-query-groups 2 --qk-layernorm "
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
        "",
    ),
}
QUICK_EXPERTS = {"TP=2 with sequence parallel"}


def cases(layouts: dict, quick: Collection[str] = ()) -> list:
    return [
        pytest.param(*case, id=name, marks=() if name in quick else pytest.mark.slow)
        for name, case in layouts.items()
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    corpus = write_corpus(folder / "corpus", chat_like_lengths(150, longest=ROW))
    return f"--data-path {corpus.prefix} --data-cache-path {folder / 'cache'} --packing-alignment 4"


@pytest.fixture(scope="module")
def begin(data, tmp_path_factory):
    """Flags that start a run from one checkpoint of a GPTModel."""
    checkpoints: dict[str, str] = {}

    def flags(model: str = "", without: str = "") -> str:
        if (key := model + without) not in checkpoints:
            path = tmp_path_factory.mktemp("checkpoint")
            train(
                f"{data} {model} --train-iters 1 --save {path} --save-interval 1", without=without
            )
            # Even with --finetune Megatron loads the optimizer of a GPTModel into a HybridModel.
            start = f"--load {path} --finetune --no-load-optim --train-iters {STEPS}"
            checkpoints[key] = f"{data} {model} {start}"
        return checkpoints[key]

    return flags


def assert_alike(start: str, of_gpt: str, pattern: str, ranks: int, without: str = "") -> None:
    """Train both classes: losses and gradient norms of every step are equal."""
    gpt = train(f"{start} {of_gpt}", ranks, without=without)
    hybrid = train(f"{start} --hybrid-layer-pattern {pattern}", ranks, without=without)
    assert "> model: GPTModel\n" in gpt.output
    assert f"> model: HybridModel, layers {pattern}\n" in hybrid.output
    assert "4 GPT layers feed 4 attention and 4 MLP positions" in hybrid.output  # Megatron says it
    assert len(gpt.steps) == STEPS
    for name, bound in (("loss", {"abs": 1e-6, "rel": 0}), ("grad_norm", {"rel": 1e-5})):
        found, expected = ([getattr(step, name) for step in run.steps] for run in (hybrid, gpt))
        assert found == pytest.approx(expected, **bound)


@pytest.mark.parametrize(("flags", "of_gpt", "pattern", "ranks"), cases(LAYOUTS))
def test_both_classes_train_alike_in_every_layout(begin, flags, of_gpt, pattern, ranks):
    assert_alike(f"{begin()} {flags}", of_gpt, pattern.replace("X", "-"), ranks)


@pytest.mark.parametrize(
    ("flags", "of_gpt", "pattern", "ranks"), cases(EXPERT_LAYOUTS, QUICK_EXPERTS)
)
@pytest.mark.slow
def test_so_do_mixtures_of_experts(begin, flags, of_gpt, pattern, ranks):
    assert_alike(f"{begin(BALANCED)} {flags}", of_gpt, pattern.replace("X", "E"), ranks)


@pytest.mark.parametrize(("flags", "without"), cases(PARTS))
def test_what_the_model_is_made_of_changes_nothing(begin, flags, without):
    assert_alike(begin(flags, without), "", "*-*-*-*-", 1, without)


@pytest.mark.slow
def test_a_hybrid_model_goes_on_from_its_checkpoint_in_another_layout(data, tmp_path):
    """An older flag, other stages and other ranks: as a run without a break."""
    flags = f"{data} --hybrid-override-pattern *-*-"
    whole = train(f"{flags} --train-iters 4 --save {tmp_path} --save-interval 2")
    rest = train(
        f"{data} --hybrid-layer-pattern *-|*- --pipeline-model-parallel-size 2 --train-iters 4 "
        f"--load {tmp_path} --ckpt-step 2",
        ranks=2,
    )
    assert [step.loss for step in rest.steps] == pytest.approx(
        [step.loss for step in whole.steps[2:]], abs=1e-6, rel=0
    )
