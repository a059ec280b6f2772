# SPDX-License-Identifier: Apache-2.0
"""Packed validation and test splits have the losses of unpacked ones."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

from megatron_packing import PackIndex
from megatron_packing.thd.loss_weights import NORMALISERS
from tests.conftest import chat_like_lengths, write_corpus
from tests.megatron.test_parallel import PADDED, PADDED_ROWS, slow_unless
from tests.trainer import ROW, needs_trainer, padded_batches, train

pytestmark = needs_trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    corpus = write_corpus(folder / "corpus", chat_like_lengths(150, longest=ROW))
    data = f"--data-path {corpus.prefix} --split 60,30,10 --packing-alignment 4"
    # The order of the documents of a step is that of packs, so all runs share indexes.
    data += f" --data-cache-path {folder / 'cache'}"
    train(f"{data} --train-iters 1 --save {folder / 'checkpoint'} --save-interval 1")
    return f"{data} --load {folder / 'checkpoint'} --finetune --train-iters 2 --eval-interval 1"


@pytest.fixture(scope="module")
def padded(data):
    """Evaluations of padded rows, by normaliser."""

    @functools.cache
    def run(normaliser: str) -> list[float]:
        batches = f"{padded_batches(PADDED_ROWS)} --eval-global-batch-size {PADDED_ROWS}"
        return train(
            f"{data} {passes(data)} {batches} --packing-normaliser {normaliser}",
            script=PADDED,
            environment={"PACKED_GLOBAL_BATCH_SIZE": "4"},
        ).evaluations

    return run


def passes(data: str) -> str:
    """The flag that reads each split of both once at least."""
    return f"--eval-iters {max(packs_of(data)) // 4}"


def packs_of(data: str) -> list[int]:
    """Packs of the validation and of the test split."""
    cache = data.split("--data-cache-path ")[1].split()[0]
    indexes = [PackIndex.open(path) for path in (Path(cache) / "pack_indexes").iterdir()]
    return [len(index) for index in indexes if index.corpus.first_document > 0]


@pytest.mark.parametrize(
    ("normaliser", "layout", "ranks"),
    [
        slow_unless((normaliser, ranks) in {("token", 1), ("turn", 2)}, normaliser, layout, ranks)
        for normaliser in NORMALISERS
        for layout, ranks in (("", 1), ("--pipeline-model-parallel-size 2", 2))
    ],
)
@pytest.mark.slow
def test_an_evaluation_has_the_loss_of_an_unpacked_one(data, padded, normaliser, layout, ranks):
    assert all(count % 4 == 0 for count in packs_of(data))
    flags = f"{data} {passes(data)} --packing-normaliser {normaliser}"
    packed = train(f"{flags} {layout}", ranks)
    assert len(packed.evaluations) == 4  # two steps, the end, the test
    assert packed.evaluations == pytest.approx(padded(normaliser), abs=1e-6, rel=0)


def test_a_number_of_batches_that_is_no_whole_pass_is_mentioned(data):
    packs = max(packs_of(data))
    run = train(f"{data} --eval-iters {packs // 4 + 1}")
    assert f"> an evaluation reads {packs + 4} rows" in run.output
    assert f"valid split fill {packs}: --eval-iters {packs // 4} evaluates each of them once" in (
        run.output
    )
    assert "valid split fill" not in train(f"{data} --eval-iters {packs // 4}").output
