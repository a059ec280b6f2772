from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")


@pytest.fixture(scope="module")
def results():
    script = Path(__file__).with_name("packed_and_separate.py")
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    process = subprocess.run(
        [sys.executable, script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("position_embedding", ["rope", "learned_absolute"])
def test_packed_loss_and_gradients_are_those_of_documents_alone(results, position_embedding):
    result = results[position_embedding]
    assert 1 < result["rows"] < 11  # there are 11 documents, so rows hold several
    count, alone_count = result["tokens"]
    assert count == alone_count > 0
    loss, alone = result["mean losses"]
    assert loss == pytest.approx(alone, abs=1e-6)
    assert result["gradient difference"] < 1e-5
