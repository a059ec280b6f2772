"""What the provider hands to Bridge's own loaders, batches and training step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PlanSettings
from tests.conftest import chat_like_lengths, write_corpus
from tests.nemo.conftest import BRIDGE, needs_bridge

pytestmark = needs_bridge

SCRIPT = Path(__file__).with_name("run_bridge.py")
ROW = 64


@pytest.fixture
def index(tmp_path) -> Path:
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(60, longest=ROW))
    settings = PlanSettings(strategy="optimal", sequence_length=ROW)
    return build_pack_index(corpus, settings, tmp_path / "packs").path


def run(*arguments: object, ranks: int = 1) -> dict:
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
    result = json.loads(outputs[0][0].splitlines()[-1])
    assert tuple(result["version"]) == BRIDGE
    return result


def test_bridges_batches_hold_the_rows_and_boundaries_of_this_projects(index):
    """Its sampler, collation and gpt_step.get_batch; across the end of an epoch."""
    result = run("batches", index)
    assert result["rows"] == 12 > result["packs"] == 11
    assert result["weights"] > 100


@pytest.mark.parametrize(
    "stages",
    [
        1,
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(
            4,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(BRIDGE < (0, 5), reason="its middle stages lose cu_seqlens"),
            ],
        ),
    ],
)
def test_bridges_training_step_has_this_projects_losses_and_gradients(index, stages):
    result = run("losses", index, stages, ranks=stages)
    assert len(result["bridge"]) == 3
    assert result["bridge"] == result["own"]  # to the last bit
    assert result["gradient"] == 0
