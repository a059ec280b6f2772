# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

pytest.importorskip("megatron.core")

from megatron_packing import PackIndex
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import ROW, needs_trainer, pretrain, train, until_0_19

pytestmark = needs_trainer
STEPS = 20


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainer")
    return write_corpus(folder / "corpus", chat_like_lengths(150, longest=ROW))


@pytest.fixture(scope="module")
def data(corpus):
    return f"--data-path {corpus.prefix} --data-cache-path {corpus.prefix.parent / 'cache'}"


@pytest.fixture(scope="module")
def checkpoint(data, corpus):
    """Weights to start from: initial ones depend on the layout."""
    path = corpus.prefix.parent / "checkpoint"
    train(f"{data} --train-iters 1 --save {path} --save-interval 1")
    return path


@pytest.fixture(scope="module")
def one_rank(data, checkpoint):
    run = train(f"{data} --train-iters {STEPS} --load {checkpoint} --finetune")
    assert len(run.steps) == STEPS
    assert run.steps[-1].loss < run.steps[0].loss - 0.1
    return run


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["", "--packing-balance"])
def test_many_steps_on_two_ranks_have_the_losses_of_one(data, checkpoint, one_rank, flags):
    flags = f"{data} --train-iters {STEPS} --load {checkpoint} --finetune {flags}"
    run = train(flags, ranks=2)
    losses = [step.loss for step in run.steps]
    assert losses == pytest.approx([step.loss for step in one_rank.steps], abs=1e-5, rel=0)


@pytest.mark.slow
def test_balanced_steps_read_what_unbalanced_ones_read(data, one_rank):
    run = train(f"{data} --train-iters {STEPS} --packing-balance", ranks=2)
    assert run.rows == one_rank.rows


@pytest.mark.parametrize(
    ("layout", "ranks"),
    [
        ("", 1),
        ("--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1", 2),
        ("--context-parallel-size 2", 2),
        ("--eval-interval 1 --eval-iters 1 --split 90,10,0 --tensor-model-parallel-size 2", 2),
    ],
    ids=["one rank", "virtual stages", "CP=2", "TP=2 with evaluations"],
)
@pytest.mark.slow
def test_floating_point_operations_are_counted_from_real_lengths(
    data, corpus, tmp_path, layout, ranks
):
    flags = f"{data} --train-iters 2 --packing-alignment 4 --data-cache-path {tmp_path} {layout}"
    run = train(flags, ranks)
    (path,) = (
        path
        for path in (tmp_path / "pack_indexes").iterdir()
        if PackIndex.open(path).corpus.first_document == 0
    )
    index = PackIndex.open(path)
    positions = sum(
        int(index.segments(pack, corpus.num_tokens).lengths.sum()) for pack in range(len(index))
    )
    for step in run.operations[:2]:
        tokens, squares = (
            step[f"{name}_in_batch"] for name in ("total_real_tokens", "seqlen_squared_sum")
        )
        assert 0 < tokens <= min(4 * ROW, positions)
        assert tokens < squares <= tokens * ROW
    if "split" not in layout:
        whole = train(f"{flags} --train-iters {-(-len(index) // 4)}", ranks)
        counted = sum(step["total_real_tokens_in_batch"] for step in whole.operations)
        # The last batch holds the first packs of the next epoch too.
        assert counted >= positions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "ranks"),
    [
        ("--context-parallel-size 2", 2),
        ("--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1", 2),
    ],
    ids=["CP=2", "virtual stages"],
)
def test_skipped_iterations_read_their_rows_and_train_on_none(data, tmp_path, layout, ranks):
    flags = f"{data} --train-iters 3 --packing-alignment 4 --data-cache-path {tmp_path}"
    whole = train(flags)
    run = train(f"{flags} {layout} --iterations-to-skip 2", ranks)
    assert len(run.steps) == 2
    # What observes rows sees none of those that are skipped.
    assert run.rows == {step: rows for step, rows in whole.rows.items() if step != 2}


def test_stragglers_are_logged(data):
    run = train(f"{data} --train-iters 2 --log-straggler --logging-level 20")
    assert run.output.count("MnRtt/Rnk") == 2


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ("--qk-l2-norm", "--num-experts 4 --moe-router-load-balancing-type none"),
        ("--rope-scaling-factor 32", "--use-rope-scaling"),
    ],
)
def test_a_flag_of_the_model_changes_what_is_trained(data, checkpoint, flags, changed):
    del checkpoint
    without, run = (train(f"{data} --train-iters 1 {changed} {more}") for more in ("", flags))
    assert run.steps != without.steps


def test_half_precision_trains_on_a_cpu(data):
    single, half = (train(f"{data} --train-iters 2 {flag}").steps for flag in ("", "--bf16"))
    assert [step.loss for step in half] == pytest.approx([step.loss for step in single], abs=0.01)
    assert half != single


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataloader-type cyclic", "--dataloader-type is cyclic"),
        ("--full-validation", "--full-validation fails in Megatron"),
        ("--apply-layernorm-1p", "--apply-layernorm-1p"),
        pytest.param(
            "--spec no.such module", "--spec and --transformer-impl local", marks=until_0_19
        ),
        (
            "--num-experts 4 --moe-router-load-balancing-type sinkhorn",
            "which counts padding as tokens",
        ),
        ("--num-experts 4 --moe-expert-capacity-factor 1.0", "--moe-expert-capacity-factor is not"),
        ("--micro-batch-size 2", "--micro-batch-size is 2"),
        ("--sft", "--sft is not supported with packing"),
        ("--reset-position-ids", "--reset-position-ids is not supported with packing"),
        ("--packing-attention pack --packing-position-ids restart", "--packing-position-ids"),
        ("--packing-alignment 3", "--packing-alignment is 3"),
        ("--packing-build-minutes 0", "--packing-build-minutes is 0; give how many minutes"),
        ("--packing-build-minutes nan", "--packing-build-minutes is nan; give how many minutes"),
        ("--packing-attention-backend varlen --bf16", "there is no GPU"),
        ("--transformer-impl transformer_engine", "Transformer Engine is not installed"),
        ("--mtp-num-layers 1 --packing-attention pack", "is not told where documents end"),
        (
            "--mtp-num-layers 1 --hybrid-layer-pattern *-*-",
            "write them after /, once for each depth, as in *-*-/*-",
        ),
        pytest.param(
            "--num-experts 4 --moe-router-enable-expert-bias --moe-router-score-function sigmoid",
            "--moe-router-enable-expert-bias is not supported with packing in megatron-core 0.1",
            marks=until_0_19,
        ),
        ("--window-size 8,0", "does not support a sliding window"),
        ("--fp8-format hybrid", "does not support FP8 or FP4"),
        ("--fim-data --split 100,0,0", "--fim-data is not supported with packing"),
        (
            "--hybrid-override-pattern *-*- --rotary-interleaved",
            "--rotary-interleaved cannot be given with --hybrid-override-pattern",
        ),
        (
            "--hybrid-layer-pattern *E/*E --num-experts 4",
            "has experts (E) in layers of multi-token prediction (after /)",
        ),
        ("--hybrid-layer-pattern M*-", "which need the packages mamba-ssm and causal-conv1d"),
        (
            "--experimental-attention-variant gated_delta_net --linear-attention-freq 2",
            "does not support attention variants",
        ),
        ("--packing-indexes /nowhere", "/nowhere is not a pack index"),
        ("--seq-length 64", "longer than the sequence length 64"),
        ("--data-path /nowhere", "/nowhere.idx does not exist"),
    ],
)
def test_a_wrong_setting_stops_the_run_with_one_sentence(data, flags, message):
    run = pretrain(f"{data} --train-iters 1 {flags}")
    assert run.status != 0
    (line,) = (line for line in run.output.splitlines() if "error: " in line and message in line)
    assert "Traceback" not in run.output.split(line)[0]
    assert not run.steps


@pytest.mark.parametrize(
    ("flags", "ranks", "message"),
    [
        (
            "--context-parallel-size 2 --packing-alignment 2",
            2,
            "--packing-alignment is 2: give a multiple of 4",
        ),
        pytest.param(
            "--context-parallel-size 2 --tensor-model-parallel-size 4 --sequence-parallel "
            "--seq-length 132",
            8,
            "give a multiple of 8",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_lengths_that_a_layout_cannot_cut_are_refused(data, flags, ranks, message):
    run = pretrain(f"{data} --train-iters 1 --max-position-embeddings 256 {flags}", ranks)
    assert run.status != 0
    assert message in run.output
    assert not run.steps


def test_an_index_of_a_smaller_alignment_is_refused_with_the_command_that_makes_the_right_one(
    data, corpus, tmp_path
):
    index = build_pack_index(
        corpus, PlanSettings(strategy="optimal", sequence_length=ROW), tmp_path / "packs"
    )
    flags = f"{data} --train-iters 1 --context-parallel-size 2 --packing-indexes {index.path}"
    run = pretrain(flags, ranks=2)
    assert run.status != 0
    assert f"error: the pack index {index.path} has segments aligned to 1" in run.output
    assert (
        f"megatron-packing pack {corpus.prefix} --sequence-length {ROW} "
        f"--alignment 4 --documents 0:150 --output DIR" in run.output
    )
    assert not run.steps


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--calculate-per-token-loss", "error: without --calculate-per-token-loss"),
        (
            "--no-create-attention-mask-in-dataloader",
            "error: the dataloader would create attention",
        ),
    ],
)
def test_without_a_flag_that_packing_needs_the_run_is_refused(data, flag, message):
    run = pretrain(f"{data} --train-iters 1", without=flag)
    assert run.status != 0
    assert message in run.output
    assert not run.steps
