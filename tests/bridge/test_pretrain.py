# SPDX-License-Identifier: Apache-2.0
"""Runs on packs by Bridge's own ``pretrain()``: resumed, finished, evaluated and on other data."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("megatron.core")

from megatron_packing.corpus.corpus import Corpus
from megatron_packing.flops.model import ModelShape
from megatron_packing.index.build import build_pack_index
from megatron_packing.index.pack_index import PackIndex
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.stream.even_order import EvenOrder, EvenSettings, work_of_packs
from megatron_packing.stream.record import read_streams
from tests.bridge.conftest import BRIDGE, needs_bridge
from tests.conftest import chat_like_lengths, write_corpus
from tests.ranks import run_ranks

pytestmark = [needs_bridge, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("run_pretrain.py")
ROW = 64
GLOBAL_BATCH = 4
EVALUATION = "validation"  # run_pretrain.py knows where Bridge 0.3 has these settings


def iterations(count: int, **train: object) -> dict:
    return {"before": {"train": {"train_iters": count, **train}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    corpus = write_corpus(folder / "corpus", chat_like_lengths(60, longest=ROW))
    settings = PlanSettings(strategy="optimal", sequence_length=ROW, alignment=4)
    build_pack_index(corpus, settings, folder / "packs")
    settings = PlanSettings(strategy="greedy", sequence_length=ROW, alignment=4)
    build_pack_index(corpus, settings, folder / "other")
    return folder


def run(folder: Path, cases: dict[str, dict], ranks: int = 1) -> dict[str, dict]:
    """All cases in one process a rank, in their order, as Bridge is imported for seconds."""
    for case in cases.values():
        for name in ("train", "validation"):
            given = case.get(name, "packs")
            blend = [f"{folder / one}" for one in ([given] if isinstance(given, str) else given)]
            case[name] = blend if len(blend) > 1 else blend[0]
        case["folder"] = f"{folder / case['folder']}"
    path = folder / f"cases{ranks}.json"
    path.write_text(json.dumps(list(cases.values())))
    output = run_ranks(SCRIPT, path, folder / f"store{ranks}", ranks=ranks)[0]
    return dict(zip(cases, json.loads(output.splitlines()[-1]), strict=True))


CHECKED = {
    name: {"folder": name, "bug": bug, "use": {"packing_check": True, **use}}
    for name, bug, use in (
        ("no boundaries", "none", {}),
        ("a moved boundary", "off by two", {}),
        ("documents may mix", None, {"attention": "pack"}),
    )
    if BRIDGE >= (0, 4)
}


@pytest.fixture(scope="module")
def results(folder) -> dict[str, dict]:
    whole = {"folder": "whole", **iterations(12, global_batch_size=2)}
    return run(
        folder,
        {
            "whole": whole,
            "begun": {"folder": "run"},
            **{
                name: {
                    "folder": f"{name} run",
                    "copy": f"{folder / 'run' / 'iter_0000003'}",
                    "train": train,
                    **iterations(4),
                }
                for name, train in (("copied", "packs"), ("copied, other index", "other"))
            },
            "finished": {"folder": "run"},
            "evaluated": {
                "folder": "run",
                "before": {EVALUATION: {"skip_train": True, "eval_iters": 5}},
            },
            "fewer evaluations": {
                "folder": "run",
                "before": {"train": {"train_iters": 4}, EVALUATION: {"eval_iters": 1}},
            },
            "rarer evaluations": {
                "folder": "run",
                "before": {"train": {"train_iters": 5}, EVALUATION: {"eval_interval": 1000}},
            },
            "smaller batch": {"folder": "run", **iterations(7, global_batch_size=2)},
            "other seed": {"folder": "run", "use": {"seed": 7}, **iterations(8)},
            "other index": {"folder": "run", "train": "other", **iterations(8)},
            "other index on purpose": {
                "folder": "run",
                "train": "other",
                "use": {"new_stream": True},
                **iterations(8, global_batch_size=2),
            },
            "goes on with it": {
                "folder": "run",
                "train": "other",
                **iterations(9, global_batch_size=2),
            },
            "back to the first": {
                "folder": "run",
                "use": {"new_stream": True},
                **iterations(10, global_batch_size=2),
            },
            "even order": {"folder": "even", "use": {"order": "even"}},
            "even order, smaller batch": {
                "folder": "even",
                "use": {"order": "even"},
                **iterations(5, global_batch_size=2),
            },
            "random order": {"folder": "even", **iterations(6)},
            "even order of one row": {
                "folder": "one row",
                "use": {"order": "even"},
                **iterations(1, global_batch_size=1),
            },
            "even order of a blend": {
                "folder": "blend",
                "train": ["packs", "other"],
                "use": {"order": "even"},
            },
            "other data into one folder": {
                "folder": "run",
                "train": "other",
                "before": {"checkpoint": {"load": None}},
            },
            **CHECKED,
        },
    )


def test_resumed_runs_read_each_row_once_in_order_whatever_batches_and_evaluations_are(results):
    """24 rows of one run: by one run, and by one that is resumed three times."""
    names = ("begun", "fewer evaluations", "rarer evaluations", "smaller batch")
    rows = [results[name]["rows"] for name in names]
    assert [len(part) for part in rows] == [12, 4, 4, 4]
    assert [*chain(*rows)] == results["whole"]["rows"] == list(range(24))
    for name, steps in zip(names, (3, 1, 1, 2), strict=True):
        for values in (results[name]["losses"], results[name]["norms"]):
            assert len(values) == steps
            assert np.isfinite(values).all()


def test_a_copy_of_a_checkpoints_folder_alone_goes_on_and_refuses_other_packs(results):
    assert results["copied"]["rows"] == [12, 13, 14, 15]
    assert results["copied"]["losses"] == results["fewer evaluations"]["losses"]
    error = results["copied, other index"]["error"]
    assert "iter_0000003/packing_stream.json says that the checkpoint was trained on oth" in error
    assert "strategy was optimal and is greedy" in error


def test_finished_runs_that_are_started_again_or_evaluated_end_cleanly(results):
    for name in ("finished", "evaluated"):
        assert results[name]["rows"] == []
        assert "error" not in results[name]
    assert len(results["evaluated"]["evaluated"]) >= 5 * GLOBAL_BATCH


@pytest.mark.parametrize(
    ("case", "difference"),
    [("other seed", "seed was 5678 and is 7"), ("other index", "strategy was optimal and is gre")],
)
def test_a_run_is_not_resumed_on_other_packs(results, case, difference):
    error = results[case]["error"]
    assert error.startswith("InputError: ")
    assert "packing_stream.json says that the checkpoint was trained on other packs" in error
    assert difference in error
    assert "new_stream=True" in error


def test_new_data_begin_with_their_first_row_that_was_not_read(results, folder):
    assert results["other index on purpose"]["rows"] == [0, 1]
    assert results["goes on with it"]["rows"] == [2, 3]
    assert results["back to the first"]["rows"] == [24, 25]
    streams = read_streams(folder / "run")
    assert [stream["first sample"] for stream in streams] == [0, 24, 28]


def test_an_even_order_is_that_of_its_definition_and_stays_when_batches_change(results, folder):
    index = PackIndex.open(folder / "packs")
    corpus = Corpus(folder / "corpus")
    shape = ModelShape(
        name="the tiny recipe's",
        num_layers=2,
        hidden_size=64,
        ffn_hidden_size=128,
        num_heads=4,
        num_query_groups=2,
        kv_channels=16,
        gated_mlp=False,
    ).work_model()
    settings = EvenSettings(
        ranks=1,
        batch=GLOBAL_BATCH,
        per_token=shape.per_token,
        per_squared_length=shape.per_squared_length,
    )
    order = EvenOrder(work_of_packs(index, corpus.num_tokens, shape), settings, seed=5678)
    expected = [order.pack_at(sample) for sample in range(16)]
    assert results["even order"]["packs"] == expected[:12]
    assert results["even order, smaller batch"]["packs"] == expected[12:]
    assert read_streams(folder / "even")[-1]["order"]["batch"] == GLOBAL_BATCH


def test_an_even_order_is_not_mixed_with_a_random_one_nor_made_of_what_it_cannot_be(results):
    assert "trained on other packs" in results["random order"]["error"]
    assert "needs at least two" in results["even order of one row"]["error"]
    assert "orders the packs of one" in results["even order of a blend"]["error"]


def test_checkpoints_of_other_packs_are_not_mixed_in_one_folder(results):
    error = results["other data into one folder"]["error"]
    assert "holds checkpoints of a run on other packs" in error


@pytest.mark.skipif(not CHECKED, reason="this Bridge has a megatron-core before 0.17")
def test_the_packing_check_names_what_lets_documents_see_each_other(results):
    """Before the first step: only the row of the check was read."""
    for name, cause in (
        ("no boundaries", "likely because it got no cu_seqlens"),
        ("a moved boundary", "got other cu_seqlens than the row's"),
    ):
        error = results[name]["error"]
        assert error.startswith("InputError: the packing check failed: document 2 of a row changed")
        assert "first in layer 1 of 2 (attention)" in error
        assert cause in error
        assert error.endswith("train all the same with packing_check=False")
        assert results[name]["rows"] == [0]
    printed = results["documents may mix"]["printed"]
    assert 'packing check: left out, as attention="pack" lets documents mix' in printed
    assert len(results["documents may mix"]["losses"]) == 3
