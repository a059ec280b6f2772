"""Many ranks, one of which packs, and file systems that show files late."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

from tests.conftest import chat_like_lengths, write_corpus
from tests.megatron.test_dataset import ROW

SCRIPT = Path(__file__).with_name("build_slowly.py")


def run(folder: Path, *arguments: object) -> list[str]:
    write_corpus(folder / "corpus", chat_like_lengths(200, longest=ROW))
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder, *map(str, arguments)],
            env={**os.environ, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [output for output, _ in outputs]


def test_packing_longer_than_the_process_groups_time_limit_ends_no_rank(tmp_path):
    """Each of two splits takes 5 seconds on rank 0; collectives are given up after 3."""
    first, second = run(tmp_path, 5, 5, "shared")
    assert first.startswith("rank 0: ")
    assert second == first.replace("rank 0", "rank 1")


def test_a_folder_that_ranks_do_not_share_is_named(tmp_path):
    _, second = run(tmp_path, 0, 0.02, "apart")
    assert "is not there after the 0.02 minutes of --packing-build-minutes" in second
    assert "--data-cache-path is no folder that" in second
