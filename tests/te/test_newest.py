# SPDX-License-Identifier: Apache-2.0
"""Packed rows through the newest tested release of Transformer Engine."""

from __future__ import annotations

import pytest

pytest.importorskip("megatron.core")

from tests.te.lane import check_alone, check_shared, lane
from tests.te.wheels import RELEASES
from tests.trainer import needs_trainer

pytestmark = needs_trainer
# packed_through_te.py says what they are.
OPTIONS = (
    "grouped queries",
    "unfused rotation",
    "interleaved",
    "interleaved, unfused",
    "window",
    "sink",
    "learnable sink",
    "learnable sink, window",
    "norm of queries and keys",
    "LayerNorm and biases",
    "learned positions",
    "yarn",
    "latent",
    "latent, yarn",
)


@pytest.fixture(scope="module")
def run():
    return lane("newest", RELEASES[0])


@pytest.mark.parametrize("option", OPTIONS)
def test_documents_in_a_row_train_as_they_do_alone(run, option):
    check_alone(run, option)


@pytest.mark.parametrize(
    ("option", "kind", "ranks"),
    [
        ("grouped queries", "p2p", 2),
        ("grouped queries", "p2p", 4),
        ("grouped queries", "a2a", 2),
        ("grouped queries", "a2a", 4),
        ("grouped queries", "all_gather", 2),
        ("grouped queries", "all_gather", 4),
        ("grouped queries", "a2a+p2p", 4),
        ("window", "a2a", 2),
        ("window", "all_gather", 2),
        ("sink", "a2a", 2),
        ("yarn", "p2p", 2),
        ("latent, yarn", "p2p", 2),
        ("interleaved, unfused", "p2p", 2),
    ],
)
def test_ranks_that_share_a_row_train_as_one_does(run, tmp_path, option, kind, ranks):
    check_shared(run, option, kind, ranks, tmp_path)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_gradient_of_a_learnable_sink_is_wrong_by_the_number_of_ranks(run, tmp_path, ranks):
    """So it is refused; if this fails with a ratio of 1, a release has corrected it."""
    found = check_shared(run, "learnable sink", "a2a", ranks, tmp_path)
    assert found["ratios"] == {"softmax_offset": pytest.approx(ranks, rel=1e-5)}


def test_chunks_in_the_wrong_order_are_seen(run, tmp_path):
    path = tmp_path / "row.pt"
    run("row", "grouped queries", path)
    found = run("swapped", "grouped queries", path, "p2p", ranks=2)
    assert found["gradient"] > 1e-3


@pytest.mark.parametrize("fault", ["mask", "factor"])
def test_faults_that_raise_no_error_change_the_losses(run, fault):
    assert run("fault", "none") == {"difference": 0}
    assert run("fault", fault)["difference"] > 1e-3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("longest", "a segment has 100 > max_seqlen_q 99"),
        ("cover", "cu_seqlens_q covers 248 of 256 positions"),
        ("int64", "int32"),
    ],
)
def test_faults_that_a_gpu_would_not_report_raise_errors(run, fault, message):
    assert message in run("fault", fault)["error"]
