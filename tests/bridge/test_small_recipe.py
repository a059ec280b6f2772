# SPDX-License-Identifier: Apache-2.0
"""check-model builds the models of Bridge's recipes small, and finds the layer that leaks."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.bridge.conftest import BRIDGE, SOURCES
from tests.trainer import needs_trainer, run_script

pytestmark = [
    needs_trainer,
    pytest.mark.skipif(
        BRIDGE < (0, 6) or bool(os.environ.get(SOURCES[0])),
        reason="an installed Megatron-Bridge 0.6 or later is needed",
    ),
]

SCRIPT = Path(__file__).with_name("check_small_recipes.py")
GPT_3 = "megatron.bridge.recipes.gpt.h100.gpt3_175b.gpt3_175b_pretrain_32gpu_h100_bf16_config"
CASES = {
    "GPT-3": {"words": ["--bridge-recipe", GPT_3]},
    "experts": {"words": ["--bridge-recipe", "small_recipes.experts"]},
    "hybrid": {"words": ["--bridge-recipe", "small_recipes:hybrid"]},
    "hybrid, leaking": {"words": ["--bridge-recipe", "small_recipes.hybrid"], "bug": "no seq_idx"},
    "own layers": {"words": ["--bridge-recipe", "small_recipes.own_layers"]},
    "unreachable": {"words": ["--bridge-recipe", "small_recipes.unreachable"]},
    "absent": {"words": ["--bridge-recipe", "small_recipes.llama"]},
    "no recipe": {"words": ["--bridge-recipe", "json.dumps"]},
    "no provider": {"words": ["--bridge-recipe", "collections.OrderedDict"]},
}
REFUSED = {
    "own layers": r"has layers of its own \(sandwich_layers\), which Transformer Engine computes",
    "unreachable": r"cannot be made \(We couldn't connect to .*hub or its cache",
    "absent": r"--bridge-recipe small_recipes.llama cannot be imported \(.*no attribute 'llama'\)",
    "no recipe": r"json.dumps cannot be made \(",
    "no provider": r"collections.OrderedDict gives a OrderedDict, which is neither a recipe",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What came of all cases, which run in one process."""
    path = tmp_path_factory.mktemp("small") / "cases.json"
    path.write_text(json.dumps(list(CASES.values())))
    run = run_script([str(SCRIPT), str(path)], 1)
    assert run.status == 0, run.output[-3000:]
    (line,) = re.findall(r"^ANSWERS (.*)$", run.output, re.MULTILINE)
    return dict(zip(CASES, json.loads(line), strict=True))


@pytest.mark.parametrize(
    ("name", "model", "num_layers", "kinds"),
    [
        ("GPT-3", "GPTModel", 4, ["SelfAttention"]),
        ("experts", "GPTModel", 4, ["SelfAttention"]),
        ("hybrid", "HybridModel", 8, ["PlainMixer", "SelfAttention"]),
    ],
)
def test_right_recipes_are_apart(answers, name, model, num_layers, kinds):
    answer = answers[name]
    assert answer["status"] == 0, answer["error"]
    record = answer["record"]
    found = record["model"], record["num_layers"], record["kinds"], record["apart"]
    assert found == (model, num_layers, kinds, True)
    assert record["num_parameters"] < 20e6
    assert "not Transformer Engine" in answer["output"]


def test_a_planted_leak_is_found_and_its_layer_named(answers):
    answer = answers["hybrid, leaking"]
    assert answer["status"] == 1
    assert re.search(r"first in layer 1 of 8 \(Mamba\): likely because .*seq_idx", answer["error"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_checked_is_refused_in_one_sentence(answers, name):
    answer = answers[name]
    assert answer["status"] == 1
    assert re.search(REFUSED[name], answer["error"]), answer["error"]
    assert "\n" not in answer["error"]
