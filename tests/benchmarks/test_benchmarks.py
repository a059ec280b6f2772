# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from megatron_packing.simulate.hardware import DEVICES
from tests.bridge.conftest import BRIDGE
from tests.conftest import ROOT
from tests.limits import TIME_LIMIT
from tests.trainer import needs_trainer


def run(tmp_path, name, *arguments):
    output = tmp_path / "figures.json"
    script = ROOT / "benchmarks" / name
    subprocess.run(
        [sys.executable, script, *arguments, "--json", output], check=True, timeout=TIME_LIMIT
    )
    return json.loads(output.read_text())


def test_speed_is_measured(tmp_path):
    record = run(tmp_path, "speed.py", "--documents", "5000", "--repeats", "2")
    (result,) = record["results"]
    assert result["documents"] == 5000
    assert 0 < result["seconds"]["ours"] < 10
    assert record["versions"]["megatron-packing"]


@pytest.mark.slow
def test_quality_is_measured(tmp_path):
    chosen = ["--seeds", "1", "--scale", "0.001", "--sets", "a", "f", "uniform"]
    results = run(tmp_path, "quality.py", *chosen, "--highs", "1")["results"]
    assert [(one["set"], one["limit"]) for one in results] == [
        *(("a", None), ("a", 4), ("f", None), ("f", 4), ("uniform", None))
    ]
    plans = [plan for result in results for plan in result["plans"]]
    for plan in plans:
        assert plan["bound"] <= plan["packs"]
        assert 0 <= plan["optimal"] <= plan["first_fit_decreasing"]
        if plan["optimum"] is not None:
            assert plan["bound"] <= plan["optimum"] <= plan["packs"]
    assert any(plan["optimum"] is not None for plan in plans)


def test_waits_of_ranks_are_counted(tmp_path):
    lengths = tmp_path / "lengths.npy"
    np.save(lengths, np.random.default_rng(0).lognormal(6, 1, 20_000).astype(np.int64) + 1)
    chosen = ["--lengths", str(lengths), "--rows", "4096"]
    results = run(tmp_path, "balance_steps.py", *chosen)["results"]
    sync = {(one["model"], one["order"]): one["sync"] for one in results}
    for model in ("8B", "attention"):
        assert sync[model, "even"] < sync[model, "random, balanced"] < sync[model, "random"]
        assert all(one["rank"] <= one["sync"] for one in results)


def test_planning_of_a_step_is_measured(tmp_path):
    for result in run(tmp_path, "plan_step.py")["results"]:
        assert result["lower_bound"] == result["micro_batches"]
        assert result["tokens_over_budget"] <= 1 <= result["rank"] <= result["sync"]


@pytest.mark.slow
def test_the_limits_of_planning_are_measured(tmp_path):
    chosen = ["--scale", "0.002", "--cases", "one length", "split"]
    for result in run(tmp_path, "limits.py", *chosen)["results"]:
        assert result["packs"] >= result["lower_bound"]
        assert result["cpu_seconds"] > 0 <= result["cpu_seconds_after_interrupt"]


@pytest.mark.slow
def test_published_speed_ups_are_predicted(tmp_path):
    found = {one["what"]: one for one in run(tmp_path, "published_speedups.py")["results"]}
    greedy = found["WildChat, 8B: greedy"]
    # Equal rows take equal steps, so the prediction is the ratio of the paper's steps.
    assert greedy["predicted"] == pytest.approx(18340 / 4780)
    assert greedy["error"] == pytest.approx(18340 / 4780 / 3.76 - 1)
    assert all(0.5 < one["predicted"] < 10 for one in found.values())


def test_efficiencies_are_fitted_to_the_rows_measured_on_a_gpu():
    script = ROOT / "benchmarks" / "simulator_error.py"
    command = [sys.executable, script, "--gpu"]
    shown = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT
    ).stdout
    h100 = DEVICES["h100"]
    linear, attention = map(float, re.findall(r"efficiency (\d\.\d+)", shown))
    assert h100.linear_efficiency == pytest.approx(linear, abs=0.005)
    assert h100.attention_efficiency == pytest.approx(attention, abs=0.005)
    errors = [abs(float(error)) for error in re.findall(r"([+-][\d.]+)%", shown)]
    assert len(errors) == 12 + 6
    assert max(errors[:12]) < 8
    assert max(errors[12:]) < 12
    page = (ROOT / "docs" / "analysis.md").read_text()
    numbers = [re.findall(r"│ (.*?) *(?=│)", line) for line in shown.splitlines() if "%" in line]
    assert [cells for cells in numbers if f"| {' | '.join(cells)} |" not in page] == []


@pytest.mark.slow
def test_tokenizing_is_timed_beside_the_tokenizer(tmp_path, chitchat, few_conversations):
    pytest.importorskip("transformers")
    tokenizer = ["--tokenizer", str(chitchat / "tokenizer"), "--repeats", "1"]
    (result,) = run(tmp_path, "tokenize_speed.py", str(few_conversations), *tokenizer)["results"]
    assert min(result["share_of_bare"], result["share_of_alone"]) > 0
    assert result["two_workers"] > 0


@pytest.mark.slow
def test_memory_of_tokenizing_is_watched(tmp_path, chitchat, few_conversations):
    pytest.importorskip("transformers")
    pytest.importorskip("psutil")
    small = ["--tokenizer", str(chitchat / "tokenizer"), "--gigabytes", "0.005"]
    (result,) = run(tmp_path, "tokenize_memory.py", str(few_conversations), *small)["results"]
    assert result["input_bytes"] > 5_000_000
    assert 10e6 < result["main_bytes"] < 1.5e9


@pytest.mark.slow
@pytest.mark.skipif(BRIDGE < (0, 4), reason="Bridge reads Parquet from 0.4 on")
def test_packs_are_read_faster_than_bridge_reads_their_export_and_shared(tmp_path):
    arguments = ["--packs", "40", "--reads", "20", "--processes", "8"]
    (result,) = run(tmp_path, "access.py", *arguments)["results"]
    access, at_once = result["access"], result["at_once"]
    assert access["all"]["export"]["read"] > access["all"]["ours"]["read"]  # 10 times when idle
    for size in ("tenth", "all"):
        assert access[size]["ours"]["private"] < 20e6
    assert at_once["proportional_bytes"] < at_once["resident_bytes"] / 4


@pytest.mark.slow
@needs_trainer
def test_right_packing_is_right_and_wrong_packing_is_wrong(tmp_path):
    record = run(tmp_path, "wrong_packing.py", "--steps", "3", "--vocabulary", "1024")
    dense, multi_token, experts = record["results"].values()
    for result in [*dense[:2], multi_token[0]]:
        assert result["loss"] < 3e-6
        assert result["grad_norm"] < 3e-5
    for result in dense[2:]:
        assert result["loss"] > 5e-3
        assert result["grad_norm"] > 1e-2
    for result in [*multi_token[1:], *experts]:  # Megatron's own, of losses beside the main one
        assert result["grad_norm"] > 1e-3


# Record, .idx, manifest and the array that has the longest segment are opened and read. The .bin,
# three arrays and both files of a loss mask are looked at.
FIRST = 4 * 2 + 1 + 3 + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpora", "documents", "of_first"),
    [
        (20, 1000, FIRST + 5 * 2),  # small arrays are hashed: all four, and the manifest once more
        (30, 1_000_000, FIRST),
    ],
)
def test_ranks_start_with_a_few_operations_for_each_corpus(corpora, documents, of_first, tmp_path):
    pytest.importorskip("megatron.core")
    options = ["--corpora", str(corpora), "--documents", str(documents), "--folder", tmp_path]
    (found,) = run(tmp_path, "startup.py", *options, "--latency", "0")["results"]
    first, other = (
        sum(found[role][name] for name in ("opened", "looked at", "listed", "reads"))
        for role in ("first", "other")
    )
    # .idx and .bin are looked at, the manifest is opened. The folder is looked at once.
    assert other == 3 * corpora + 1
    assert first == of_first * corpora + 1
    for role in ("first", "other"):
        assert found[role]["descriptors"] < 10
        assert found[role]["private bytes"] < 50e6
