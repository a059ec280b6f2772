# SPDX-License-Identifier: Apache-2.0
"""What the provider hands to Bridge's own loaders, batches and training step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from tests.bridge.conftest import BRIDGE, needs_bridge
from tests.conftest import chat_like_lengths, write_corpus
from tests.ranks import run_ranks

pytestmark = needs_bridge

SCRIPT = Path(__file__).with_name("run_bridge.py")
ROW = 64


@pytest.fixture
def index(tmp_path) -> Path:
    corpus = write_corpus(tmp_path / "corpus", chat_like_lengths(60, longest=ROW))
    settings = PlanSettings(strategy="optimal", sequence_length=ROW, alignment=4)
    return build_pack_index(corpus, settings, tmp_path / "packs").path


def run(*arguments: object, ranks: int = 1) -> dict:
    result = json.loads(run_ranks(SCRIPT, *arguments, ranks=ranks)[0].splitlines()[-1])
    assert tuple(result["version"]) == BRIDGE
    return result


@pytest.mark.parametrize("context", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_bridges_batches_hold_the_rows_and_boundaries_of_this_projects(index, context):
    """Its samplers, collation and gpt_step.get_batch: across the end of an epoch, resumed, by a
    worker, and in evaluations of any length."""
    result = run("batches", index, context, ranks=context)
    assert result["rows"] == 12
    assert 5 < result["packs"] != 12
    assert result["weights"] > 100
    assert result["padding"] > 10  # True in the padding masks, which Bridge has from 0.7 on


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
