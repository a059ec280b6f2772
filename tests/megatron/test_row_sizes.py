# SPDX-License-Identifier: Apache-2.0
"""Indexes whose rows alone would have other sizes train and evaluate alike in every layout."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("megatron.core")

from megatron_packing import PackIndex
from megatron_packing.thd.row_shape import RowShape
from tests.conftest import write_corpus
from tests.trainer import ROW, needs_trainer, train

pytestmark = needs_trainer

SPLIT = "--split 100,0,0"  # of --data-path
FLAGS = "--train-iters 3 --eval-interval 2 --eval-iters 1 --packing-alignment 4"


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    random = np.random.default_rng(0)
    lengths = {
        "many": random.integers(2, 9, 400),  # more than ten documents in a row
        "whole": [ROW + 1] * 10,  # each fills a row
        "valid": random.integers(20, 60, 40),
    }
    for name, tokens in lengths.items():
        write_corpus(folder / name, tokens)
    data = (
        f"--train-data-path 0.5 {folder / 'many'} 0.5 {folder / 'whole'} "
        f"--valid-data-path {folder / 'valid'} --data-cache-path {folder / 'cache'} {FLAGS}"
    )
    train(f"{data} --train-iters 1 --save {folder / 'start'} --save-interval 1", without=SPLIT)
    return folder, f"{data} --load {folder / 'start'} --finetune"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "ranks"),
    [
        ("--tensor-model-parallel-size 2 --sequence-parallel", 2),
        ("--context-parallel-size 2 --tensor-model-parallel-size 2", 4),
    ],
)
def test_a_blend_and_its_evaluation_have_the_losses_of_one_rank(begin, layout, ranks):
    folder, flags = begin
    indexes = map(PackIndex.open, (folder / "cache" / "pack_indexes").iterdir())
    alone = [RowShape.of([index]) for index in indexes]
    assert len({shape.width for shape in alone}) == len({shape.max_seqlen for shape in alone}) == 3
    one = train(flags, without=SPLIT)
    several = train(f"{flags} {layout}", ranks, without=SPLIT)
    assert [step.loss for step in several.steps] == pytest.approx(
        [step.loss for step in one.steps], abs=1e-6, rel=0
    )
    assert several.evaluations == pytest.approx(one.evaluations, abs=1e-6, rel=0)
    assert several.evaluations
