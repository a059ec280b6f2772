# SPDX-License-Identifier: Apache-2.0
"""Packed rows through the real kernels of Mamba and gated delta net layers, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("megatron.core")
pytest.importorskip("triton")  # the lock of Python 3.12 has it

from tests.hybrid.kernels import folders
from tests.pinned import NotInstalledError
from tests.ranks import run_ranks
from tests.te.wheels import RELEASES, wheel_folder

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Run:
    try:
        folders()
        wheel_folder(RELEASES[0])
    except NotInstalledError as error:
        pytest.fail(str(error))

    def run(*arguments: object, ranks: int = 1, script: str = "packed_hybrid") -> dict[str, Any]:
        output = run_ranks(SCRIPTS / f"{script}.py", *arguments, ranks=ranks)[0]
        return json.loads(output.splitlines()[-1])

    return run


@pytest.mark.parametrize(
    ("model", "positions"),
    [
        ("mamba", 64),
        ("mamba", 288),
        ("mamba, local", 64),
        ("delta net", 64),
        ("delta net", 288),
        ("delta net, local", 64),
        ("qwen", 64),
    ],
)
def test_documents_in_a_row_train_as_they_do_alone(run, model, positions):
    found = run("alone", model, positions)
    assert found["loss"] < 1e-6
    assert found["gradient"] < 1e-6


def test_without_seq_idx_mamba_layers_mix_documents(run):
    found = run("leak", "mamba", 64)
    assert found["loss"] > 1e-2
    assert found["gradient"] > 1e-2


@pytest.mark.parametrize(("model", "positions"), [("mamba", 288), ("delta net", 64)])
def test_ranks_that_share_a_row_train_as_one_does(run, tmp_path, model, positions):
    path = tmp_path / "row.pt"
    run("row", model, positions, path)
    found = run("shared", model, positions, path, ranks=2)
    assert found["loss"] < 1e-6
    assert found["gradient"] < 1e-6


def test_mamba_layers_of_the_oldest_core_find_the_documents_themselves(run):
    found = run("alone", "mamba", 64, script="oldest_core")
    assert found["loss"] < 1e-6
    assert found["gradient"] < 1e-6
