"""Packed rows against documents alone, in megatron-core, with and without its trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

import megatron.core.utils

SCRIPT = Path(__file__).with_name("packed_and_separate.py")


def run(*arguments: object, ranks: int = 1) -> dict[str, float]:
    settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": str(ranks)}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, arguments)],
            env={**os.environ, **settings, "RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return json.loads(outputs[0][0].splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("position_embedding", "precision", "tolerance"),
    [
        ("rope", "float32", 1e-6),
        ("learned_absolute", "float32", 1e-6),
        ("rope", "float64", 1e-13),
    ],
)
def test_each_document_of_200_packs_has_the_losses_and_gradients_that_it_has_alone(
    tmp_path, position_embedding, precision, tolerance
):
    result = run("documents", tmp_path, position_embedding, precision)
    assert result["packs"] == 200
    assert result["documents"] > 5 * 200
    assert result["loss"] <= tolerance
    assert result["gradient"] <= tolerance
    assert result["bits changed"] == 0


@pytest.mark.parametrize(
    ("position_embedding", "position_ids"),
    [
        ("rope", "continue"),
        ("learned_absolute", "continue"),
        ("learned_absolute", "restart"),
    ],
)
def test_documents_that_see_each_other_are_one_sequence(tmp_path, position_embedding, position_ids):
    result = run("rows", tmp_path, position_embedding, position_ids)
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
