# SPDX-License-Identifier: Apache-2.0
"""Packed rows through the oldest supported release of Transformer Engine."""

from __future__ import annotations

import pytest

pytest.importorskip("megatron.core")

from tests.te.lane import check_alone, check_shared, lane
from tests.te.wheels import RELEASES
from tests.trainer import needs_trainer

pytestmark = [needs_trainer, pytest.mark.slow]


@pytest.fixture(scope="module")
def run():
    return lane("oldest", RELEASES[-1])


@pytest.mark.parametrize(
    "option", ["grouped queries", "unfused rotation", "window", "yarn", "latent, yarn"]
)
def test_documents_in_a_row_train_as_they_do_alone(run, option):
    check_alone(run, option)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_a_row_train_as_one_does(run, tmp_path, ranks):
    check_shared(run, "grouped queries", "p2p", ranks, tmp_path)


def test_attention_without_a_fused_kernel_is_refused(run):
    """Releases before 2.11 have no unfused attention of packed rows at all."""
    (line,) = run("settings", "9.0", "{}")["lines"]
    assert line.endswith("Transformer Engine, cuDNN")
    (line,) = run("settings", "8.0, flash-attn", "{}")["lines"]
    assert line.endswith("Transformer Engine, flash-attn")
    refusal = run("settings", "8.0", "{}")["refusal"]
    assert refusal.startswith("Transformer Engine 2.2 has no kernel")
    assert refusal.endswith("To train, install flash-attn 2")
