# SPDX-License-Identifier: Apache-2.0
"""HybridModel on packed rows through the newest tested release of Transformer Engine."""

from __future__ import annotations

import pytest

pytest.importorskip("megatron.core")

from tests.te.lane import lane
from tests.te.wheels import RELEASES
from tests.trainer import needs_trainer

pytestmark = [needs_trainer, pytest.mark.slow]
OPTIONS = (
    "grouped queries",
    "window",
    "learnable sink",
    "norm of queries and keys",
    "LayerNorm and biases",
    "learned positions",
    "yarn",
    "latent",
)


@pytest.fixture(scope="module")
def run():
    return lane("hybrid_through_te", RELEASES[0])


@pytest.mark.parametrize("option", OPTIONS)
def test_a_row_has_the_losses_and_gradients_of_gpt_models(run, option):
    assert run("alike", option) == {"loss": 0, "gradient": 0}


def test_experts_have_them_too(run):
    found = run("experts")
    assert found["loss"] < 1e-6
    assert found["gradient"] < 1e-6


def test_checkpoints_of_both_implementations_have_the_same_names(run):
    found = run("names")
    assert len(found["local"]) > 15
    assert found["local"] == found["transformer_engine"]
