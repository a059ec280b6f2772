# SPDX-License-Identifier: Apache-2.0
"""What the packing check takes for a fault where FP8 scales are those of the whole row."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("megatron.core")

import torch

from megatron_packing.isolation.comparison import Comparison
from megatron_packing.isolation.tolerances import Precision, Tolerances
from tests.trainer import HAS_TRAINER, needs_trainer

if HAS_TRAINER:
    with warnings.catch_warnings():  # of what Megatron misses on a CPU
        warnings.simplefilter("ignore")
        from megatron_packing.megatron.isolation_judge import find_fault
        from megatron_packing.megatron.isolation_recorder import Sign
        from megatron_packing.megatron.isolation_rows import RowLayout
        from megatron_packing.megatron.isolation_run import Findings

pytestmark = needs_trainer
LAYERS, DOCUMENTS = 2, 4
SLOTS = LAYERS + 2  # and the embedding, and the losses


def fault(*, shares_scales: bool, **moved: float) -> str | None:
    """Judge a row whose second document moved in the first layer by so much in some passes."""
    comparisons = {}
    for name in ("again", "replaced", "padding", "gradient 0", "gradient 1", "alone 0"):
        comparisons[name] = Comparison(torch.zeros(SLOTS, DOCUMENTS), torch.zeros(SLOTS, 1))
        comparisons[name].moved[1, 1] = moved.get(name.replace(" ", "_"), 0.0)
    findings = Findings(
        layout=RowLayout(lengths=(8,) * DOCUMENTS, real_lengths=(8,) * DOCUMENTS),
        signs=torch.zeros(SLOTS, len(Sign)),
        typical_loss=10.0,
        comparisons=comparisons,
    )
    precision = Precision.of(
        torch.bfloat16,
        fp8=True,
        shares_scales=shares_scales,
        experts=False,
        recurrent=False,
        on_gpu=True,
    )
    tolerances = Tolerances.of(comparisons["again"], findings.typical_loss, precision)
    found = find_fault(findings, tolerances, recomputes=False, context_parallel=False)
    return None if found is None else str(found)


def test_other_tokens_may_move_documents_that_share_scales_and_no_others():
    assert fault(shares_scales=True, replaced=0.9, padding=0.9) is None
    assert "outputs there by 9.0e-01" in fault(shares_scales=False, replaced=0.9)


@pytest.mark.parametrize("shares_scales", [True, False])
def test_a_gradient_for_another_document_is_a_fault(shares_scales):
    assert "a gradient (1.0e-03 of its own)" in fault(shares_scales=shares_scales, gradient_0=1e-3)


@pytest.mark.parametrize("shares_scales", [True, False])
@pytest.mark.parametrize("name", ["replaced", "padding", "again"])
def test_what_is_no_number_is_a_fault(shares_scales, name):
    assert "not finite" in fault(shares_scales=shares_scales, **{name: float("inf")})


def test_a_document_alone_may_differ_by_what_shared_scales_move():
    assert fault(shares_scales=True, alone_0=0.4) is None
    for moved, shares_scales in ((0.6, True), (0.4, False)):
        assert "not computed as alone" in fault(shares_scales=shares_scales, alone_0=moved)
