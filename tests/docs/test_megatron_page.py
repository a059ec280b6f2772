# SPDX-License-Identifier: Apache-2.0
"""The page about Megatron shows the lines that its command prints at the start."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.docs.pages import blocks
from tests.trainer import PRETRAIN_PACKED, needs_trainer, train


@pytest.mark.slow
@needs_trainer
def test_the_start_prints_what_the_page_shows(example_data, tmp_path):
    command = next(
        block.text
        for block in blocks("megatron.md")
        if block.kind == "sh" and "--data-path data/chat" in block.text
    )
    (shown,) = [block.text for block in blocks("megatron.md") if block.kind == "text"]
    script, _, flags = command.replace("\\\n", " ").partition("$MODEL_AND_OPTIMIZER")
    assert script.split()[0] == "torchrun"
    assert ROOT / script.split()[-1] == PRETRAIN_PACKED
    flags = flags.replace("data/", f"{example_data}/data/")
    run = train(
        f"{flags} --exit-interval 1 --data-cache-path {tmp_path} --num-layers 1 "
        f"--hidden-size 16 --num-attention-heads 1 --max-position-embeddings 4096",
        check=None,
    )
    printed = run.output.replace(f"{example_data}/", "").replace(f"{tmp_path}/pack_indexes/", "")
    lines = [line for line in printed.splitlines() if line.startswith("> ")]
    for line in shown.splitlines():
        beginning = line.removesuffix("...")
        assert any(one.startswith(beginning) for one in lines), "\n".join(lines)
    assert len(run.steps) == 1
