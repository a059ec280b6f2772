# SPDX-License-Identifier: Apache-2.0
"""Runs ``packed_through_te`` with one release of Transformer Engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pinned import NotInstalledError
from tests.ranks import run_ranks
from tests.te.wheels import wheel_folder

Run = Callable[..., dict[str, Any]]


def lane(script: str, release: str) -> Run:
    """Return a function that runs a check; fail if there is no wheel."""
    try:
        wheel_folder(release)
    except NotInstalledError as error:
        pytest.fail(str(error))
    path = Path(__file__).with_name(f"{script}.py")

    def run(*arguments: object, ranks: int = 1) -> dict[str, Any]:
        return json.loads(run_ranks(path, *arguments, ranks=ranks)[0].splitlines()[-1])

    return run


def check_alone(run: Run, option: str) -> None:
    """Each document of a row has the losses and gradients that it has alone.

    And the attention kernel gets what its contract asks for. It checks the rest itself: see
    ``fake.attention_kernel``.
    """
    found = run("alone", option)
    assert found["loss"] == 0
    assert found["gradient"] < 1e-6
    attention = [call for call in found["calls"] if call["kernel"] == "fused_attn_fwd"]
    assert len(attention) == 2  # layers
    window = [16, 0] if "window" in option else [-1, 0]
    for call in attention:
        assert call["attn_mask_type"] == "padding_causal"
        assert call["qkv_layout"] == "thd_thd_thd"
        assert call["window_size"] == window
        assert call["max_seqlen_q"] == call["max_seqlen_kv"] == found["longest"]
    rotated = any(call["kernel"] == "fused_rope" for call in found["calls"])
    unfused = ("unfused", "latent", "learned", "yarn")
    assert rotated is not any(word in option for word in unfused)


def check_shared(run: Run, option: str, kind: str, ranks: int, folder: Path) -> dict[str, Any]:
    """A row that ranks share has the losses and gradients that it has on one rank."""
    path = folder / "row.pt"
    run("row", option, path)
    found = run("shared", option, path, kind, ranks=ranks)
    assert found["loss"] < 2e-6
    assert found["gradient"] < 1e-6
    assert any(call["kernel"] == "fused_attn_fwd" for call in found["calls"])
    return found


def check_waits(
    run: Run, option: str, tensor: int = 1, pipeline: int = 1, sequence: str = ""
) -> None:
    """No host waits in a step: get_batch, forward and backward.

    Each row is one message to the tensor-parallel group. Before the first row there is another,
    for which the ranks that receive it wait.
    """
    found = run("waits", option, tensor, pipeline, sequence, ranks=tensor * pipeline)
    assert len(found["ranks"]) == tensor * pipeline
    is_sent = tensor > 1
    for rank in found["ranks"]:
        assert rank["first messages"] == ["broadcast"] * 2 * is_sent
        assert rank["second messages"] == ["broadcast"] * is_sent
        assert rank["second waits"] == []
        learned = "tolist at megatron/row_message.py"
        ours = [place for place in rank["first waits"] if place.startswith(learned)]
        assert len(ours) == is_sent, rank["first waits"]
        assert rank["control"] == 1
