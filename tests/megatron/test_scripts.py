# SPDX-License-Identifier: Apache-2.0
"""Scripts of users: with parts left out, asked for help, and ended by torchrun."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("megatron.core")

from megatron_packing.megatron.launch import raise_open_files_limit
from tests.conftest import EXAMPLES, chat_like_lengths, write_corpus
from tests.trainer import CPU, MODEL, PRETRAIN_PACKED, ROW, TRAINING, needs_trainer, pretrain, train

pytestmark = needs_trainer

HALF = Path(__file__).with_name("pretrain_half.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    corpus = write_corpus(folder / "corpus", chat_like_lengths(150, longest=ROW))
    cache = folder / "cache"
    return f"--data-path {corpus.prefix} --data-cache-path {cache} --train-iters 2"


@pytest.mark.parametrize(
    ("left_out", "flags", "ranks", "message"),
    [
        ("forward_step", "", 1, "packed rows reached Megatron's own get_batch"),
        (
            "forward_step",
            "--tensor-model-parallel-size 2 --num-workers 1",
            2,
            "packed rows reached Megatron's own get_batch",
        ),
        (
            "datasets_provider",
            "",
            1,
            "are not packed: give pretrain() datasets_provider",
        ),
        ("use_packed_layers", "", 1, "call use_packed_layers(model_config, args)"),
        (
            "use_packed_layers=unchecked_layers",
            "",
            1,
            "call use_packed_layers(model_config, args)",
        ),
        (
            "hybrid_config_from_args",
            "--hybrid-layer-pattern *-*-",
            1,
            "this script builds another model than HybridModel",
        ),
        (
            "add_packing_arguments,check_packing_arguments,use_packed_layers",
            "",
            1,
            "pass add_packing_arguments to Megatron's parser",
        ),
        (
            "check_packing_arguments",
            "--packing-alignment 3",
            1,
            "--packing-alignment is 3: give a multiple of 1",
        ),
    ],
    ids=[
        "forward step",
        "forward step, TP=2",
        "datasets",
        "layers",
        "checks of layers",
        "class",
        "flags",
        "check",
    ],
)
def test_a_part_that_was_left_out_is_named(data, left_out, flags, ranks, message):
    run = pretrain(
        f"{data} {flags}", ranks, script=HALF, environment={"HALF": left_out}, check=None
    )
    assert run.status != 0
    assert "error: " in run.output
    assert message in run.output
    assert not run.steps


def test_a_script_without_any_part_of_packing_still_trains(data):
    """So the parts above are what stops the others."""
    parts = "add_packing_arguments,check_packing_arguments,use_packed_layers,datasets_provider"
    run = train(data, script=HALF, environment={"HALF": f"{parts},forward_step"}, check=None)
    assert len(run.steps) == 2


def run_script(*words: str, ranks: int = 1) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [*launcher, "--master-port", "0", EXAMPLES / "cpu_trainer.py", PRETRAIN_PACKED, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )


@pytest.mark.slow
def test_help_shows_all_flags_and_those_of_packing_last():
    process = run_script("--help")
    assert process.returncode == 0, process.stderr[-3000:]
    assert "--tensor-model-parallel-size" in process.stdout
    assert process.stdout.index("--packing-strategy") > process.stdout.index("--sft")


def test_as_many_files_as_the_system_allows_can_be_open():
    """Each corpus takes several, and a common limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        raise_open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_torchrun_ends_with_the_sentence_and_all_wrong_flags(data):
    words = f"{MODEL} {CPU} {TRAINING} {data} --sft --fim-data --packing-alignment 3".split()
    process = run_script(*words)
    assert process.returncode != 0
    summary = process.stderr.split("Root Cause")[-1]
    assert "3 settings are wrong" in summary
    for flag in ("--sft", "--fim-data", "--packing-alignment"):
        assert flag in summary
