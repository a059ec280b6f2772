from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.trainer import needs_trainer


def run(tmp_path, name, *arguments):
    output = tmp_path / "figures.json"
    script = ROOT / "benchmarks" / name
    subprocess.run([sys.executable, script, *arguments, "--json", output], check=True, timeout=250)
    return json.loads(output.read_text())


def test_speed_is_measured(tmp_path):
    record = run(tmp_path, "speed.py", "--documents", "5000", "--repeats", "2")
    (result,) = record["results"]
    assert result["documents"] == 5000
    assert 0 < result["seconds"]["ours"] < 10
    assert record["versions"]["megatron-packing"]


def test_quality_is_measured(tmp_path):
    record = run(tmp_path, "quality.py", "--seeds", "2", "--scale", "0.02", "--sets", "a", "f")
    for result in record["results"]:
        for plan in result["plans"]:
            assert 0 <= plan["optimal"] <= plan["first_fit_decreasing"]


@pytest.mark.slow
@needs_trainer
def test_right_packing_is_right_and_wrong_packing_is_wrong(tmp_path):
    record = run(tmp_path, "wrong_packing.py", "--steps", "3")
    right, wrong = record["results"][:2], record["results"][2:]
    assert len(wrong) == 3
    for result in right:
        assert result["loss"] < 3e-6
        assert result["grad_norm"] < 3e-5
    for result in wrong:
        assert result["loss"] > 5e-3
        assert result["grad_norm"] > 1e-2
