# SPDX-License-Identifier: Apache-2.0
"""What the log, TensorBoard and W&B show of packing is what the index says of the same steps."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("megatron.core")

from megatron_packing.flops.model import ModelShape
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.thd.rows import PackedRows
from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import ROW, needs_trainer, train

SCRIPT = Path(__file__).with_name("pretrain_watched.py")
BATCH, INTERVAL, STEPS = 4, 2, 4
MODEL = ModelShape(
    name="that of tests.trainer",
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=128,  # int(4 * 64 * 2 / 3 / 64) * 64, as Megatron's default with --swiglu
    num_heads=4,
    num_query_groups=4,
    vocabulary_size=256,
)


def expected_figures(rows: PackedRows, first: int, ranks: int, flags_of_work) -> dict[str, float]:
    """The figures of the steps of one log interval, from the index."""
    samples = range(first, first + INTERVAL * BATCH)
    arrays = [rows.row(sample) for sample in samples]
    real = [array["real_lengths"].astype(np.int64) for array in arrays]
    work = np.array([flags_of_work(rows.segment_lengths(sample)) for sample in samples])
    by_rank = work.reshape(INTERVAL, BATCH // ranks, ranks)
    mean = work.sum() / ranks
    return {
        "packing/utilisation": sum(map(np.sum, real)) / (len(samples) * ROW),
        "packing/documents-per-step": sum(int((one > 0).sum()) for one in real) / INTERVAL,
        "packing/trained-tokens-per-step": (
            sum(np.count_nonzero(array["loss_mask"]) for array in arrays) / INTERVAL
        ),
        "packing/rank-imbalance": by_rank.sum(1).max(1).sum() / mean,
        "packing/sync-imbalance": by_rank.max(2).sum() / mean,
        "packing/epoch": (first + len(samples)) / len(rows.index),
    }


def operations(rows: PackedRows, first: int) -> tuple[int, int]:
    """Real tokens and floating-point operations of one log interval."""
    lengths = np.concatenate(
        [rows.row(s)["real_lengths"] for s in range(first, first + INTERVAL * BATCH)]
    ).astype(np.int64)
    tokens, squares = int(lengths.sum()), int(lengths @ lengths)
    linear = MODEL.linear_flops_per_position * tokens
    return tokens, linear + MODEL.attention_flops_per_square * squares


@needs_trainer
@pytest.mark.parametrize(
    ("layout", "ranks", "data_parallel"),
    [
        ("", 2, 2),
        ("--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1", 2, 1),
        pytest.param(
            "--tensor-model-parallel-size 2 --packing-balance", 4, 2, marks=pytest.mark.slow
        ),
    ],
    ids=["DP=2", "PP=2 with virtual stages", "TP=2 and DP=2"],
)
def test_writers_get_what_the_index_says(tmp_path, layout, ranks, data_parallel):
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(150, longest=ROW))
    environment = {"SCALARS": str(tmp_path / "scalars")}
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    if has_tensorboard:
        environment["TENSORBOARD"] = str(tmp_path / "tensorboard")
    run = train(
        f"--data-path {corpus.prefix} --data-cache-path {tmp_path} --train-iters {STEPS} "
        f"--log-interval {INTERVAL} {layout}",
        ranks,
        script=SCRIPT,
        environment=environment,
    )
    found: dict[str, dict[tuple[str, int], float]] = {"tensorboard": {}, "wandb": {}}
    for line in (tmp_path / "scalars").read_text().splitlines():
        kind, name, value, step = json.loads(line)
        if name.startswith("packing/"):
            found[kind][name, step] = value
    assert found["tensorboard"] == found["wandb"]
    scalars = found["tensorboard"]
    (path,) = (tmp_path / "pack_indexes").iterdir()
    rows = PackedRows(
        index=PackIndex.open(path), corpus=corpus, seed=1234, new_order_each_epoch=True
    )
    names = set()
    for step in range(INTERVAL, STEPS + 1, INTERVAL):
        first = (step - INTERVAL) * BATCH
        work = MODEL.work_model().work
        expected = expected_figures(rows, first, data_parallel, work)
        if "balance" in layout:
            assert scalars["packing/rank-imbalance", step] <= expected.pop("packing/rank-imbalance")
            del expected["packing/sync-imbalance"]
        for name, value in expected.items():
            assert scalars[name, step] == pytest.approx(value, rel=1e-9), name
        tokens, flops = operations(rows, first)
        speed = scalars["packing/tokens-per-second", step]
        assert speed > 0
        assert scalars["packing/tokens-per-second-per-gpu", step] == pytest.approx(speed / ranks)
        assert scalars["packing/tflops-per-gpu", step] == pytest.approx(
            flops / tokens * speed / ranks / 1e12
        )
        names |= expected.keys()
        (line,) = re.findall(rf"> packing, step {step}: (.*)", run.output)
        assert f"{expected['packing/documents-per-step']:,.1f} documents and" in line
        assert f"epoch {expected['packing/epoch']:.4f}" in line
    assert names <= {name for name, _ in scalars}
    if has_tensorboard:
        assert read_events(tmp_path / "tensorboard") == {
            key: pytest.approx(value, rel=1e-6) for key, value in scalars.items()
        }


def read_events(folder: Path) -> dict[tuple[str, int], float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        (tag, event.step): event.value
        for tag in events.Tags()["scalars"]
        if tag.startswith("packing/")
        for event in events.Scalars(tag)
    }


@needs_trainer
def test_evaluations_and_resumed_steps_are_not_counted_twice(tmp_path):
    corpora = [write_corpus(tmp_path / name, chat_like_lengths(80, longest=ROW)) for name in "ab"]
    blend = " ".join(f"0.5 {corpus.prefix}" for corpus in corpora)
    flags = (
        f"--train-data-path {blend} --valid-data-path {corpora[0].prefix} "
        f"--data-cache-path {tmp_path} --train-iters 4 --eval-interval 1 --eval-iters 1"
    )
    save = f"--save {tmp_path / 'run'} --save-interval 2"
    options = {"script": SCRIPT, "without": "--split 100,0,0"}
    whole, resumed = (
        train(f"{flags} {load}", environment={"SCALARS": str(tmp_path / name)}, **options)
        for load, name in ((save, "whole"), (f"--load {tmp_path / 'run'} --ckpt-step 2", "resumed"))
    )
    lines = {
        name: [
            re.sub(r".*TFLOP/s\), ", "", line)
            for line in re.findall(r"> packing, step \d+: (.*)", run.output)
        ]
        for name, run in (("whole", whole), ("resumed", resumed))
    }
    assert len(lines["whole"]) == 4
    # The first step of a run is shown again with the second one.
    assert lines["resumed"][0] == lines["whole"][2]
    epochs = [re.findall(r"epoch of (\S+) ([\d.]+)", line) for line in lines["whole"]]
    assert [name for name, _ in epochs[0]] == ["a", "b"]
    assert [float(value) for _, value in epochs[3]] == pytest.approx(
        [float(value) for _, value in epochs[0]][0:2] * np.array(4), rel=1e-3
    )
