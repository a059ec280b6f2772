# SPDX-License-Identifier: Apache-2.0
"""The packing check finds planted bugs and names them, cries no wolf, and leaves no trace."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import ROW, Run, needs_trainer, pretrain, train

pytestmark = needs_trainer

PLANTED = Path(__file__).with_name("pretrain_planted.py")
TP = "--tensor-model-parallel-size 2 --sequence-parallel"
VIRTUAL = "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"
EXPERTS = (
    "--num-experts 4 --moe-router-topk 2 --moe-router-load-balancing-type aux_loss "
    "--moe-aux-loss-coeff 0.5 --moe-token-dispatcher-type alltoall"
)
RECOMPUTE = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
HYBRID = "--hybrid-layer-pattern M-*-M-"
LEARNED = "--position-embedding-type learned_absolute"

NO_FAULT = "> packing check: .* are apart"

# What each run is told, its ranks, and the planted bugs with what the check must say of them.
RUNS = {
    "one rank": (
        RECOMPUTE,
        1,
        {
            "mask lost when computed again": r"gave .* gradient .* layer 4 of 4 .*computed again",
            "kernel ignores cu_seqlens": r"layer 1 of 4 \(attention\).*ignores cu_seqlens",
            "max_seqlen is the row": r"rotary positions run through all documents.*max_seqlen",
            "a row is one document": r"layer 1 of 4 .* other cu_seqlens",
            "boundary off by one": r"layer 1 of 4 .* other cu_seqlens",
            "later boundary off by one": r"layer 1 of 4 .* other cu_seqlens",
            "later boundary lost": r"gave document 2 a gradient .*other cu_seqlens",
            "loss averaged by row": r"the loss function returned .* must divide nothing",
            "loss without a denominator": r"returns two values",
        },
    ),
    "learned positions": (LEARNED, 1, {"positions do not restart": r"the embedding.*not restart"}),
    "Mamba": (
        HYBRID,
        1,
        {
            "no seq_idx": r"layer 1 of 6 \(Mamba\).*no seq_idx",
            "convolution across documents": r"layer 1 of 6 \(Mamba\).*the convolution",
            "recurrence across documents": r"layer 1 of 6 \(Mamba\).*recurrence",
        },
    ),
    "experts, TP=2": (
        f"{TP} {EXPERTS}",
        2,
        {
            "padding in a router": r"router in layer 1 of 4 .*counts padding",
            "two documents are one on a tensor-parallel rank": r"layer 1 of 4 .*other cu_seqlens",
        },
    ),
    "PP=2 with virtual stages": (
        VIRTUAL,
        2,
        {
            "middle stages without cu_seqlens": r"layer 2 of 4 .* stage 1,.*got no cu_seqlens",
            "loss averaged by row": r"must divide nothing",
        },
    ),
    "PP=2 with multi-token prediction": (
        "--pipeline-model-parallel-size 2 --mtp-num-layers 2",
        2,
        {
            "multi-token prediction crosses documents": (
                r"layer 1 of multi-token prediction \(attention\).*cross the end of a document"
            ),
            "kernel ignores cu_seqlens": r"layer 1 of 4 \(attention\).*ignores cu_seqlens",
        },
    ),
    "multi-token prediction": (
        f"--mtp-num-layers 1 {RECOMPUTE}",
        1,
        {
            "multi-token prediction crosses documents": (
                r"layer 1 of multi-token prediction \(attention\).*cross the end of a document"
            ),
        },
    ),
    "CP=2 with multi-token prediction": (
        "--mtp-num-layers 1 --context-parallel-size 2",
        2,
        {
            "multi-token prediction crosses documents": (
                r"layer 1 of multi-token prediction \(attention\).*cross the end of a document"
            ),
        },
    ),
    "hybrid with multi-token prediction": (
        "--hybrid-layer-pattern *-M-/M*-/M*-",
        1,
        {
            "multi-token prediction crosses documents": (
                r"layer 1 of multi-token prediction \(Mamba\).*cross the end of a document"
            ),
            "no seq_idx": r"layer 3 of 4 \(Mamba\).*no seq_idx",
        },
    ),
    "PP=2, bf16": (
        "--pipeline-model-parallel-size 2 --bf16",
        2,
        {"kernel ignores cu_seqlens": r"layer 1 of 4 \(attention\).*ignores cu_seqlens"},
    ),
    "CP=2": (
        "--context-parallel-size 2",
        2,
        {
            "wrong order of chunks": r"wrong order of context-parallel chunks",
            "denominator on every rank": r"a denominator of \d+ .* over \d+",
        },
    ),
}
# What differs in kind, beside the runs above: no alarm, and no trace.
RIGHT = {
    "DP=2 with distributed optimizer": (
        "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather "
        "--hidden-dropout 0.1 --attention-dropout 0",
        2,
    ),
    "experts on two ranks": (
        f"{EXPERTS} --expert-model-parallel-size 2 --packing-balance",
        2,
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("isolation")
    corpus = write_corpus(folder / "corpus", chat_like_lengths(150, longest=ROW))
    cache = folder / "cache"
    return f"--data-path {corpus.prefix} --data-cache-path {cache} --train-iters 2"


def plant(
    flags: str, ranks: int, names: Iterable[str], *, check: bool = True, rounded: bool = False
) -> Run:
    environment = {"PLANTED": ",".join(names)} | ({"ROUNDED": ""} if rounded else {})
    return train(flags, ranks, script=PLANTED, environment=environment, check=check)


@pytest.mark.parametrize("name", RUNS)
def test_planted_bugs_are_found_and_named_and_training_goes_on_as_without_the_check(data, name):
    flags, ranks, bugs = RUNS[name]
    run = plant(f"{data} {flags}", ranks, bugs)
    for bug, sentence in bugs.items():
        found = re.findall(rf"PLANTED {bug}: (.*)", run.output)
        assert len(found) == ranks
        assert len(set(found)) == 1, "ranks say different things"
        assert found[0].startswith("the packing check failed: ")
        assert re.search(sentence, found[0]), found[0]
    assert len(re.findall(NO_FAULT, run.output)) == 1
    without = plant(f"{data} {flags}", ranks, (), check=False)
    assert run.steps == without.steps
    assert run.operations == without.operations


def test_rounding_to_fp8_raises_no_alarm_and_planted_bugs_are_found(data):
    bugs = ("a row is one document", "boundary off by one", "later boundary lost")
    flags = f"{data} --bf16 --hidden-size 192 --seq-length 512 --max-position-embeddings 512"
    run = plant(flags, 1, bugs, rounded=True)
    for bug in bugs:
        assert f"PLANTED {bug}: the packing check failed: " in run.output
    (line,) = re.findall(rf"{NO_FAULT}.* moved by (\S+) .*", run.output)
    assert float(line) > 1e-3
    assert "ROUNDED 16 weights" in run.output  # four of each layer


@pytest.mark.parametrize("name", RIGHT)
def test_right_runs_raise_no_alarm_and_train_as_without_the_check(data, name):
    flags, ranks = RIGHT[name]
    run, without = (train(f"{data} {flags}", ranks, check=check) for check in (True, False))
    assert len(re.findall(NO_FAULT, run.output)) == 1
    assert "packing check" not in without.output
    assert run.steps == without.steps


def test_the_first_start_is_checked_and_the_next_ones_are_not(data, tmp_path):
    flags = f"{data} --train-iters 3 --save {tmp_path} --save-interval 1"
    assert re.search(NO_FAULT, train(f"{flags} --exit-interval 1", check=None).output)
    resumed = train(f"{flags} --load {tmp_path}", check=None)
    assert "packing check" not in resumed.output


def test_a_fault_ends_the_run_before_its_first_step(data):
    script = PLANTED.with_name("pretrain_wrongly.py")
    run = pretrain(data, script=script, environment={"WRONG": "averaged"}, check=True)
    assert run.status != 0
    assert "the packing check failed: the loss function returned" in run.output
    assert not run.steps


def test_what_cannot_be_checked_is_said(data, tmp_path):
    run = train(f"{data} --packing-attention pack", check=True)
    assert "> packing check: left out, as --packing-attention pack lets documents mix" in run.output
    corpus = write_corpus(tmp_path / "corpus", [ROW + 1] * 8)
    flags = f"{data} --data-path {corpus.prefix} --data-cache-path {tmp_path}"
    run = train(flags, check=True)
    assert "> packing check: left out, as none of the first rows holds two doc" in run.output


def test_a_rank_that_cannot_read_the_row_leaves_no_rank_waiting(data):
    run = pretrain(
        f"{data} {TP}",
        2,
        script=PLANTED,
        environment={"PLANTED": "", "BROKEN": "1"},
        check=True,
    )
    assert run.status != 0
    assert "error: the row cannot be read" in run.output
    assert "error: another rank could not read the row of the packing check" in run.output
