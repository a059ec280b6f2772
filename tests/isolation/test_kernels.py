# SPDX-License-Identifier: Apache-2.0
"""What stands in for kernels takes what the kernels of the pinned packages take."""

from __future__ import annotations

import ast

import pytest

pytest.importorskip("torch")

import torch

from megatron_packing.isolation.kernels import _BOUNDARIES, KernelCalls, _by_document
from tests.hybrid.kernels import folders
from tests.pinned import NotInstalledError


@pytest.mark.slow
def test_the_boundaries_that_each_kernel_takes_are_those_of_its_signature():
    pytest.importorskip("triton")  # the lock of Python 3.12 has it, and the wheels are for that
    try:
        packages = folders()
    except NotInstalledError as error:
        pytest.fail(str(error))
    found = {}
    for folder in packages.values():
        for name in ("mamba_ssm", "fla"):
            for path in (folder / name / "ops").rglob("*.py"):
                for node in ast.parse(path.read_text()).body:
                    if isinstance(node, ast.FunctionDef) and node.name in _BOUNDARIES:
                        arguments = [*node.args.args, *node.args.kwonlyargs]
                        found[node.name] = {argument.arg for argument in arguments}
    assert {*found, "causal_conv1d_fn"} == set(_BOUNDARIES)
    for kernel, arguments in found.items():
        takes = _BOUNDARIES[kernel]
        assert takes in arguments if takes else not arguments & {"seq_idx", "cu_seqlens"}


def test_a_kernel_runs_for_each_document_only_where_it_gets_the_boundaries_that_it_takes():
    def running_sum(hidden, scale=1.0):
        return hidden.cumsum(2) * scale

    calls = KernelCalls()
    compute = _by_document("causal_conv1d_fn", running_sum, calls)
    hidden = torch.ones(1, 2, 5)
    segments = torch.tensor([[0, 0, 1, 1, 1]], dtype=torch.int32)
    told = compute(hidden, scale=2.0, seq_idx=segments, cu_seq_lens_q=None)
    assert told[0, 0].tolist() == [2, 4, 2, 4, 6]
    assert not calls.causes()
    untold = compute(hidden, cu_seqlens=torch.tensor([0, 2, 5]))
    assert untold[0, 0].tolist() == [1, 2, 3, 4, 5]
    assert calls.causes() == ["its kernel causal_conv1d_fn got no seq_idx"]


def test_cu_seqlens_are_boundaries_too_and_the_state_is_left_as_it_is():
    def scan(hidden, output_final_state=False):
        return hidden.cumsum(1), (hidden.sum(1) if output_final_state else None)

    compute = _by_document("chunk_gated_delta_rule", scan, KernelCalls())
    hidden = torch.ones(1, 5, 2)
    output, state = compute(hidden, cu_seqlens=torch.tensor([0, 2, 5]))
    assert output[0, :, 0].tolist() == [1, 2, 1, 2, 3]
    assert state is None
