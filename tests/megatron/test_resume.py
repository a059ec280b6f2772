# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped goes on with the documents that it left off at."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from signal import SIGKILL

import numpy as np
import pytest

pytest.importorskip("megatron.core")

from megatron_packing import PackIndex
from megatron_packing.corpus.joined import open_corpus
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.write import group_places, write_pack_index
from megatron_packing.megatron.endless import count_samples
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.stream.record import RECORD
from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import ROW, needs_trainer, pretrain, train

pytestmark = needs_trainer

TOPOLOGIES = {
    "DP=2": "",
    "TP=2": "--tensor-model-parallel-size 2 --sequence-parallel",
    "PP=2": "--pipeline-model-parallel-size 2",
    "CP=2": "--context-parallel-size 2",
}


@pytest.fixture
def corpora(tmp_path):
    lengths = chat_like_lengths(200, longest=ROW)
    return [write_corpus(tmp_path / f"corpus{i}", lengths[i::2], seed=i) for i in range(2)]


@pytest.fixture
def data(corpora, tmp_path):
    blend = " ".join(f"{weight} {corpus.prefix}" for weight, corpus in zip((3, 1), corpora))  # noqa: B905
    return f"--data-path {blend} --data-cache-path {tmp_path / 'cache'} --packing-alignment 4"


def saving(folder) -> str:
    # Without the last Megatron refuses to go on for longer than it was told at first.
    return f"--save {folder} --load {folder} --save-interval 1 --override-opt_param-scheduler"


@pytest.mark.slow
def test_two_processes_killed_at_random_steps_read_what_an_uninterrupted_run_reads(
    data, corpora, tmp_path
):
    steps = 45
    uninterrupted = train(f"{data} --train-iters {steps}", ranks=2)
    assert sorted(uninterrupted.rows) == list(range(1, steps + 1))
    assert all(len(rows) == 4 for rows in uninterrupted.rows.values())
    assert 4 * steps > 2 * sum(len(corpus) for corpus in corpora) / 5  # more than two epochs

    choose = random.Random(0)
    flags = f"{data} --train-iters {steps} {saving(tmp_path / 'checkpoints')}"
    first = 0
    kills = int(os.environ.get("MEGATRON_PACKING_KILLS", "8"))
    for kill in range(kills + 1):
        after = choose.randint(1, 5) if kill < kills else None
        run = pretrain(
            f"{flags} {choose.choice(list(TOPOLOGIES.values()))}", ranks=2, kill_after=after
        )
        assert run.status == (0 if kill == kills else -SIGKILL), run.output[-3000:]
        assert min(run.rows) <= first + 1  # nothing was left out
        first = max(run.rows)
        for step, rows in run.rows.items():
            assert set(rows) <= set(uninterrupted.rows[step])
            if step < first:
                assert rows == uninterrupted.rows[step]
    assert first == steps


@pytest.mark.slow
def test_a_longer_run_goes_on_where_the_shorter_one_ended(data, tmp_path):
    flags = f"{data} {saving(tmp_path / 'checkpoints')}"
    whole = train(f"{data} --train-iters 12")
    begun = train(f"{flags} --train-iters 5")
    ended = train(f"{flags} --train-iters 12")
    assert begun.rows | ended.rows == whole.rows
    losses = [step.loss for step in begun.steps + ended.steps]
    assert losses == pytest.approx([step.loss for step in whole.steps], abs=1e-5)


@pytest.mark.slow
def test_packs_made_under_context_parallelism_are_kept_without_it(corpora, tmp_path):
    data = f"--data-path {corpora[0].prefix} --data-cache-path {tmp_path / 'cache'}"
    flags = f"{data} {saving(tmp_path / 'checkpoints')}"
    context_parallel = "--context-parallel-size 2"
    whole = train(f"{data} --train-iters 4 {context_parallel}", ranks=2)
    train(f"{flags} --train-iters 2 {context_parallel}", ranks=2)
    ended = train(f"{flags} --train-iters 4")
    assert ended.rows == {step: whole.rows[step] for step in (3, 4)}


@pytest.mark.slow
def test_an_even_order_stays_as_it_began_with_other_ranks(corpora, tmp_path):
    data = (
        f"--data-path {corpora[0].prefix} --data-cache-path {tmp_path / 'cache'} "
        f"--packing-order even"
    )
    flags = f"{data} {saving(tmp_path / 'checkpoints')}"
    whole = train(f"{data} --train-iters 5", ranks=2)
    train(f"{flags} --train-iters 3", ranks=2)
    (stream,) = json.loads((tmp_path / "checkpoints" / RECORD).read_text())["streams"]
    assert stream["order"]["ranks"] == 2
    ended = train(f"{flags} --train-iters 5")  # one rank, which would have an order of its own
    assert ended.rows == {step: whole.rows[step] for step in (4, 5)}
    assert whole.rows != train(f"{data} --train-iters 5 --packing-order random", ranks=2).rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "ranks", "message"),
    [
        ("--packing-order even", 1, "order ranks was None and is 1"),
        ("--seed 9", 1, "seed was 1234 and is 9"),
        ("--packing-strategy greedy", 1, "datasets 0 strategy was optimal and is greedy"),
        ("--split 90,10,0", 1, "datasets 0 documents was 100 and is 90"),
        ("--context-parallel-size 2", 2, "datasets 0 alignment was 1 and is 4"),
    ],
)
def test_other_packs_than_the_checkpoint_s_are_refused(corpora, tmp_path, change, ranks, message):
    folder = tmp_path / "checkpoints"
    data = f"--data-path {corpora[0].prefix} --data-cache-path {tmp_path / 'cache'}"
    flags = f"{data} {saving(folder)}"
    train(f"{flags} --train-iters 1")
    run = pretrain(f"{flags} --train-iters 2 {change}", ranks)
    assert run.status != 0
    assert f"error: {folder / 'iter_0000001' / RECORD} says" in run.output
    assert message in run.output
    assert not run.steps


def test_other_packs_go_to_another_folder_or_are_asked_for(corpora, tmp_path):
    folder = tmp_path / "checkpoints"
    data = f"--data-path {corpora[0].prefix} --data-cache-path {tmp_path / 'cache'}"
    flags = f"{data} {saving(folder)}"
    train(f"{flags} --train-iters 1")
    run = pretrain(f"{flags} --train-iters 2 --seed 9 --finetune")
    assert f"error: --save {folder} holds checkpoints of a run on other packs" in run.output
    assert not run.steps
    train(f"{flags} --train-iters 2 --seed 9 --finetune --save {tmp_path / 'another'}")
    train(f"{flags} --train-iters 2 --seed 9 --packing-new-stream")


def other_plan_of_equal_settings(index: PackIndex, path) -> PackIndex:
    """The same documents in other packs, as another release's planner may put them."""
    lengths = np.diff(index.pack_offsets)
    packs = np.split(np.asarray(index.document_ids), index.pack_offsets[1:-1])[::-1]
    document_ids = np.concatenate(packs)
    corpus = open_corpus(str(index.corpus.prefix))
    positions = np.asarray(corpus.num_tokens)[document_ids] - 1
    arrays = {
        "pack_offsets": np.concatenate([[0], np.cumsum(lengths[::-1])]),
        "document_ids": document_ids,
        **group_places(positions, index.plan.sequence_length, index.plan.alignment),
    }
    write_pack_index(
        path, plan=index.plan, corpus=index.corpus, figures=index.figures, arrays=arrays
    )
    return PackIndex.open(path)


def test_an_index_made_again_with_other_packs_is_refused(corpora, tmp_path):
    settings = PlanSettings(strategy="optimal", sequence_length=ROW)
    first = build_pack_index(corpora[0], settings, tmp_path / "first")
    second = other_plan_of_equal_settings(first, tmp_path / "second")
    copy = shutil.copytree(first.path, tmp_path / "copy")
    assert (second.plan, second.figures) == (first.plan, first.figures)
    flags = f"--data-path {corpora[0].prefix} {saving(tmp_path / 'checkpoints')} --packing-indexes"
    train(f"{flags} {first.path} --train-iters 1")
    run = pretrain(f"{flags} {second.path} --train-iters 2")
    assert run.status != 0
    assert "datasets 0 has the same settings but other packs" in run.output
    assert not run.steps
    train(f"{flags} {copy} --train-iters 2")
    # A record of an earlier release does not hold what tells the two apart, and lies beside.
    record = tmp_path / "checkpoints" / RECORD
    (tmp_path / "checkpoints" / "iter_0000002" / RECORD).unlink()
    (stream,) = json.loads(record.read_text())["streams"]
    del stream["datasets"][0]["arrays"]
    record.write_text(json.dumps({"format_version": 1, **stream}))
    run = train(f"{flags} {first.path} --train-iters 3")
    assert "was written by an earlier release without digests" in run.output
    assert "arrays" in json.loads(record.read_text())["streams"][0]["datasets"][0]


@pytest.mark.slow
def test_new_data_begin_with_their_first_unread_rows(corpora, tmp_path):
    cache = f"--data-cache-path {tmp_path / 'cache'} --packing-alignment 4"
    chat, code = (corpus.prefix for corpus in corpora)
    flags = f"{cache} {saving(tmp_path / 'checkpoints')}"
    alone = [
        train(f"--data-path {prefix} {cache} --train-iters 8").reads for prefix in (chat, code)
    ]
    begun = train(f"--data-path 0.5 {chat} 0.5 {code} {flags} --train-iters 4")
    assert sorted(begun.reads) == sorted(alone[0][:8] + alone[1][:8])
    changed = f"--data-path 0.2 {chat} 0.8 {code} {flags} --packing-new-stream"
    run = train(f"{changed} --train-iters 7")
    # Of 12 samples and of 16, by Megatron's rule; independent of where they begin.
    counts, later = (count_samples((0.2, 0.8), samples) for samples in (12, 16))
    ends = [8 + count for count in counts]
    assert counts[0] <= 3 < 9 <= counts[1]
    assert sorted(run.reads) == sorted(alone[0][8 : ends[0]] + alone[1][8 : ends[1]])
    assert "> the data changed at sample 16 of this run: " in run.output
    for prefix in (chat, code):
        assert f"{prefix} continues at its row 8 (rows count from 0)" in run.output
    # The flag does not begin the same data anew; without it they go on likewise.
    run = train(f"{changed} --train-iters 8")
    assert sorted(run.reads) == sorted(
        alone[0][ends[0] : 8 + later[0]] + alone[1][ends[1] : 8 + later[1]]
    )
    # What was never read begins with its first row.
    run = train(
        f"--data-path {chat} {flags} --packing-new-stream --train-iters 9 --seed 9 "
        f"--packing-strategy greedy"
    )
    assert f"{chat} starts at its first row" in run.output


@pytest.mark.slow
def test_a_later_phase_goes_on_with_the_rows_after_those_of_the_first(corpora, tmp_path):
    data = f"--data-path {corpora[0].prefix} --data-cache-path {tmp_path / 'cache'}"
    whole = train(f"{data} --train-iters 5").rows
    flags = f"{saving(tmp_path / 'checkpoints')} --train-samples 20 --phase-transition-iterations 2"
    first = train(f"{data} {flags}")
    assert len(first.steps) == 2
    other = f"--data-path {corpora[1].prefix} --data-cache-path {tmp_path / 'cache'}"
    refused = pretrain(f"{other} {flags}")
    assert "says that the checkpoint was trained on other packs" in refused.output
    assert "so this run would not continue where it ended" in refused.output
    second = train(f"{data} {flags}")
    assert first.rows | second.rows == whole


def test_a_record_without_a_checkpoint_decides_nothing(corpora, tmp_path):
    folder = tmp_path / "checkpoints"
    data = f"--data-path {corpora[0].prefix} --data-cache-path {tmp_path / 'cache'}"
    flags = f"{data} {saving(folder)}"
    train(f"{flags} --train-iters 1 --packing-alignment 8")
    (folder / "latest_checkpointed_iteration.txt").unlink()
    train(f"{flags} --train-iters 1")
    record = json.loads((folder / RECORD).read_text())
    assert record["streams"][0]["datasets"][0]["alignment"] == 1


def copy_newest(run, folder):
    """Copy the newest checkpoint alone, as ``cp -r iter_*`` does, and announce it there."""
    newest = max(run.glob("iter_*"))
    shutil.copytree(newest, folder / newest.name)
    (folder / "latest_checkpointed_iteration.txt").write_text(str(int(newest.name[5:])))
    return folder / newest.name / RECORD


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ("--save-retain-interval 4", {"iter_0000004"}),
        ("--async-save", {"iter_0000002", "iter_0000004"}),
    ],
    ids=["retention", "async"],
)
def test_every_checkpoint_has_its_record_and_loses_it_with_its_folder(corpora, tmp_path, how, kept):
    folder = tmp_path / "checkpoints"
    data = f"--data-path {corpora[0].prefix} --data-cache-path {tmp_path / 'cache'}"
    run = train(
        f"{data} {saving(folder)} --train-iters 4 --save-interval 2 {how} "
        f"--non-persistent-save-interval 3 --non-persistent-ckpt-type global",
        ranks=2,
    )
    records = {str(path.parent.relative_to(folder)): path for path in folder.rglob(RECORD)}
    assert records.keys() == {".", "non_persistent/iter_0000003", *kept}
    assert len({path.read_text() for path in records.values()}) == 1
    assert "Overwriting old incomplete" not in run.output


@pytest.mark.parametrize("checkpoint_format", ["torch_dist", "torch"])
@pytest.mark.slow
def test_a_checkpoint_s_own_folder_resumes_and_refuses_other_data(
    corpora, tmp_path, checkpoint_format
):
    cache = f"--data-cache-path {tmp_path / 'cache'} --ckpt-format {checkpoint_format}"
    data = f"--data-path {corpora[0].prefix} {cache}"
    whole = train(f"{data} --train-iters 4").rows
    train(f"{data} {saving(tmp_path / 'run')} --train-iters 2")
    record = copy_newest(tmp_path / "run", tmp_path / "copy")
    flags = f"{saving(tmp_path / 'copy')} --train-iters 4"
    refused = pretrain(f"--data-path {corpora[1].prefix} {cache} {flags}")
    assert f"error: {record} says that the checkpoint was trained on other packs" in refused.output
    assert not refused.steps
    # The record of another run beside the checkpoint does not count.
    train(
        f"--data-path {corpora[1].prefix} {cache} --train-iters 1 --save {tmp_path / 'other'} "
        f"--save-interval 1"
    )
    shutil.copy(tmp_path / "other" / RECORD, tmp_path / "copy" / RECORD)
    assert train(f"{data} {flags}").rows == {step: whole[step] for step in (3, 4)}


@pytest.mark.slow
def test_the_record_is_that_of_the_checkpoint_that_is_loaded(corpora, tmp_path):
    """After the data were changed at step 2, step 1 still goes on with the former ones."""
    cache = f"--data-cache-path {tmp_path / 'cache'}"
    first, second = (f"--data-path {corpus.prefix} {cache}" for corpus in corpora)
    flags = f"{saving(tmp_path / 'run')} --packing-new-stream"
    begun = train(f"{first} {flags} --train-iters 2")
    train(f"{second} {flags} --train-iters 3")
    run = tmp_path / "run"
    streams = [
        len(json.loads((run / f"iter_000000{step}" / RECORD).read_text())["streams"])
        for step in (1, 2, 3)
    ]
    assert streams == [1, 1, 2]
    again = f"--load {run} --ckpt-step 1 --train-iters 2 --override-opt_param-scheduler"
    assert train(f"{first} {again}").rows == {2: begun.rows[2]}
    refused = pretrain(f"{second} {again}")
    assert f"error: {run / 'iter_0000001' / RECORD} says" in refused.output


@pytest.mark.slow
def test_a_checkpoint_without_a_record_is_refused_unless_its_data_are_vouched_for(
    corpora, tmp_path
):
    folder = tmp_path / "checkpoints"
    data = f"--data-path {corpora[0].prefix} --data-cache-path {tmp_path / 'cache'}"
    whole = train(f"{data} --train-iters 3").rows
    train(f"{data} {saving(folder)} --train-iters 1")
    text = (folder / RECORD).read_text()
    (folder / "iter_0000001" / RECORD).unlink()
    (folder / RECORD).unlink()
    flags = f"{data} {saving(folder)}"
    run = pretrain(f"{flags} --train-iters 2")
    assert f"error: {folder / 'iter_0000001' / RECORD} does not exist" in run.output
    assert "--packing-resume-without-record" in run.output
    assert not run.steps
    # As earlier releases left it: beside the checkpoints.
    (folder / RECORD).write_text(text)
    assert train(f"{flags} --train-iters 2").rows == {2: whole[2]}
    for path in folder.rglob(RECORD):
        path.unlink()
    run = train(f"{flags} --train-iters 3 --packing-resume-without-record")
    assert run.rows == {3: whole[3]}


@pytest.mark.slow
def test_records_are_written_through_the_multi_storage_client(corpora, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    profile = {"storage_provider": {"type": "file", "options": {"base_path": str(store)}}}
    settings = tmp_path / "client.json"
    settings.write_text(json.dumps({"profiles": {"lab": profile}}))
    environment = {"MSC_CONFIG": str(settings)}
    data = f"--data-path {corpora[0].prefix} --data-cache-path {tmp_path / 'cache'} --enable-msc"
    whole = train(f"{data} --train-iters 2", environment=environment).rows
    flags = f"{data} {saving('msc://lab/run')}"
    train(f"{flags} --train-iters 1", environment=environment)
    record = store / "run" / "iter_0000001" / RECORD
    assert record.exists()
    run = train(f"{flags} --train-iters 2", environment=environment)
    assert run.rows == {2: whole[2]}
    other = pretrain(f"{flags} --train-iters 3 --seed 9", environment=environment)
    assert (
        f"error: msc://lab/run/iter_0000002/{RECORD} says that the checkpoint was trained on other"
        in other.output
    )
    assert not list(Path().glob("msc:*"))


def test_a_checkpoint_is_evaluated_on_other_data(corpora, tmp_path):
    folder = tmp_path / "checkpoints"
    cache = f"--data-cache-path {tmp_path / 'cache'} --split 50,50,0 --eval-iters 1"
    train(f"--data-path {corpora[0].prefix} {cache} --train-iters 1 {saving(folder)}")
    run = train(
        f"--data-path {corpora[1].prefix} {cache} --train-iters 1 --load {folder} --skip-train"
    )
    assert len(run.evaluations) == 1
