# SPDX-License-Identifier: Apache-2.0
"""Packed rows against documents alone, in megatron-core, with and without its trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

import megatron.core.utils

from tests.ranks import run_ranks

SCRIPT = Path(__file__).with_name("packed_and_separate.py")


def run(*arguments: object, ranks: int = 1) -> dict[str, float]:
    return json.loads(run_ranks(SCRIPT, *arguments, ranks=ranks)[0].splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packs", "documents", "position_embedding", "precision", "tolerance"),
    [
        (200, 1075, "learned_absolute", "float32", 1e-6),
        (200, 1075, "rope", "float64", 1e-13),
        (40, 193, "rope", "float32", 1e-6),
        (40, 193, "rope", "float64", 1e-13),  # with older cores
    ],
)
def test_each_document_of_many_packs_has_the_losses_and_gradients_that_it_has_alone(
    tmp_path, packs, documents, position_embedding, precision, tolerance
):
    result = run("documents", tmp_path, packs, position_embedding, precision)
    assert result["packs"] == packs
    assert result["documents"] == documents
    assert result["loss"] <= tolerance
    assert result["gradient"] <= tolerance
    assert result["bits changed"] == 0


@pytest.mark.parametrize(
    ("position_embedding", "position_ids", "alignment"),
    [
        pytest.param("rope", "continue", 1, marks=pytest.mark.slow),
        ("rope", "continue", 8),
        pytest.param("learned_absolute", "continue", 1, marks=pytest.mark.slow),
        ("learned_absolute", "restart", 8),
    ],
)
def test_documents_that_see_each_other_are_one_sequence(
    tmp_path, position_embedding, position_ids, alignment
):
    result = run("rows", tmp_path, position_embedding, position_ids, alignment)
    assert result["rows"] > 10
    assert result["loss"] < 2e-6


@pytest.mark.skipif(
    not hasattr(megatron.core.utils, "flatten_batch_for_packed_sequences"),
    reason="Megatron's own batch path takes 1-D cu_seqlens from 0.19 on only",
)
def test_megatron_s_own_batch_path_takes_the_samples(tmp_path):
    result = run("stock", tmp_path, ranks=2)
    assert result["rows"] > 3
    assert result["loss"] == 0


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    return folder, run("layout", folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "ranks"),
    [
        ({"context_parallel_size": 2}, 2),
        ({"tensor_model_parallel_size": 2}, 2),
        ({"tensor_model_parallel_size": 2, "sequence_parallel": 1}, 2),
        ({"pipeline_model_parallel_size": 2}, 2),
        (
            {
                "tensor_model_parallel_size": 2,
                "sequence_parallel": 1,
                "context_parallel_size": 2,
            },
            4,
        ),
    ],
)
def test_rows_have_the_same_loss_in_every_layout(one_rank, layout, ranks):
    folder, expected = one_rank
    words = [word for pair in layout.items() for word in pair]
    result = run("layout", folder, *words, ranks=ranks)
    assert result["rows"] == expected["rows"] > 3
    assert result["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    if "gradient" in result:
        assert result["gradient"] < 1e-7
