# SPDX-License-Identifier: Apache-2.0
"""Runs that take more samples than Megatron counts at their start train to their end."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("megatron.core")

from megatron_packing import PackIndex
from megatron_packing.megatron.endless import count_samples
from megatron_packing.thd.rows import PackedRows
from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import ROW, needs_trainer, train

pytestmark = needs_trainer

SEED = 1234  # Megatron's default
WEIGHTS = (0.75, 0.25)
EVALUATED = "--split 80,20,0 --eval-interval 2 --eval-iters 3"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endless")
    lengths = chat_like_lengths(100, longest=ROW)
    return [write_corpus(folder / f"corpus{i}", lengths[i::2], seed=i) for i in range(2)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def blend(corpora, cache) -> str:
    paths = (f"{weight} {corpus.prefix}" for weight, corpus in zip(WEIGHTS, corpora, strict=True))
    return f"--data-path {' '.join(paths)} --data-cache-path {cache}"


@pytest.fixture(scope="module")
def evaluated(blend, tmp_path_factory):
    """The flags and the end of a run with evaluations, which others resume."""
    flags = f"{blend} {EVALUATED}"
    folder = tmp_path_factory.mktemp("evaluated")
    return flags, folder, train(f"{flags} --train-iters 4 {saving(folder)}")


def saving(folder: Path) -> str:
    return f"--save {folder} --save-interval 100"


def loading(folder: Path) -> str:
    # Without the last Megatron refuses to go on for longer than it was told at first.
    return f"--load {folder} --override-opt_param-scheduler"


def stream_of(corpus, cache: Path, documents: int) -> PackedRows:
    """The training rows of the first documents of a corpus, whose index is in the run's cache."""
    wanted = (corpus.fingerprint, 0, documents)
    indexes = [PackIndex.open(path) for path in (cache / "pack_indexes").iterdir()]
    (index,) = (
        index
        for index in indexes
        if (index.corpus.fingerprint, index.corpus.first_document, index.corpus.num_documents)
        == wanted
    )
    return PackedRows(index=index, corpus=corpus, seed=SEED, new_order_each_epoch=True)


def hash_of(row) -> str:
    """As the trainer's server makes it."""
    starts = row["cu_seqlens"][: np.count_nonzero(row["real_lengths"]) + 1]  # without the tail's
    return hashlib.sha256(row["tokens"].tobytes() + starts.tobytes()).hexdigest()[:16]


def check_rows(runs, samples: int, corpora, cache: Path, *, share: float = 1.0) -> None:
    """Each corpus gave the beginning of its stream, each row once, and each document as often."""
    read = [row for run in runs for row in run.reads]
    weights = WEIGHTS if len(corpora) > 1 else [1.0]
    for corpus, count in zip(corpora, count_samples(weights, samples), strict=True):
        num_documents = round(share * len(corpus))
        stream = stream_of(corpus, cache, num_documents)
        rows = [hash_of(stream.row(i)) for i in range(2 * count + 100)]
        known = set(rows)
        assert Counter(row for row in read if row in known) == Counter(rows[:count])
        times = Counter(dict.fromkeys(range(num_documents), 0))
        for i in range(count):
            times.update(stream.segments(i).document_ids.tolist())
        epochs = count // len(stream.index)
        assert epochs >= 1 or corpus is not corpora[0]
        assert set(times.values()) <= {epochs, epochs + 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        pytest.param("--train-iters 7 --eval-iters 1", 3, id="fewer evaluation batches"),
        pytest.param("--train-iters 6 --eval-interval 5", 2, id="a larger interval of evaluations"),
        pytest.param("--train-iters 4", 0, id="a restart of a finished run"),
        pytest.param("--train-iters 4 --skip-train", 0, id="an evaluation of a finished run"),
        pytest.param("--train-iters 7 --start-eval-at-iter 5", 3, id="evaluations from a step on"),
    ],
)
def test_a_run_with_evaluations_is_resumed_with(evaluated, corpora, cache, changes, steps):
    flags, folder, begun = evaluated
    ended = train(f"{flags} {loading(folder)} {changes}")
    assert len(ended.steps) == steps
    assert ended.evaluations
    check_rows((begun, ended), 4 * (4 + steps), corpora, cache, share=0.8)


@pytest.mark.parametrize("is_blend", [False, True], ids=["one corpus", "blend"])
@pytest.mark.slow
def test_a_run_is_resumed_with_a_smaller_global_batch(blend, corpora, cache, tmp_path, is_blend):
    used = corpora if is_blend else corpora[:1]
    flags = blend if is_blend else f"--data-path {corpora[0].prefix} --data-cache-path {cache}"
    begun = train(f"{flags} --global-batch-size 8 --train-iters 4 {saving(tmp_path)}")
    for steps in (4, 6):  # Megatron counts samples for none of them, and for two
        ended = train(f"{flags} {loading(tmp_path)} --train-iters {4 + steps}")
        assert len(ended.steps) == steps
        check_rows((begun, ended), 4 * 8 + steps * 4, used, cache)


def test_a_batch_grows_by_a_schedule(blend, corpora, cache):
    flags = f"{blend} --train-iters 8 --step-batch-size-schedule 0:2,{8 * ROW}:6"
    run = train(flags, without="--global-batch-size 4")
    assert len(run.steps) == 8
    check_rows((run,), 4 * 2 + 4 * 6, corpora, cache)
