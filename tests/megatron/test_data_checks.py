# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from argparse import Namespace

import pytest

from tests.trainer import needs_trainer

pytest.importorskip("megatron.core")
pytestmark = needs_trainer


@pytest.fixture
def checks():
    return pytest.importorskip("megatron_packing.megatron.data_checks")


def config(*, blend=None, per_split=None, split="98,1,1"):
    from megatron_packing.megatron.config import PackedDatasetConfig
    from tests.megatron.test_dataset import null_tokenizer

    return PackedDatasetConfig(
        random_seed=1,
        sequence_length=64,
        split=None if per_split else split,
        blend=blend,
        blend_per_split=per_split,
        tokenizer=null_tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )


def arguments(**changes) -> Namespace:
    settings = {
        "skip_train": False,
        "multiple_validation_sets": False,
        "full_validation": False,
        "eval_iters": 100,
        **changes,
    }
    return Namespace(**settings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["0.3", "A", "B", "C"],
            "--data-path is 0.3 A B C; give only corpora, or a weight before",
        ),
        (["0.3", "A", "0.7"], "--data-path is 0.3 A 0.7"),
        (["A", "0.3", "B", "0.7"], "--data-path is A 0.3 B 0.7"),
    ],
)
def test_weights_that_do_not_stand_before_corpora_are_refused(checks, words, message):
    with pytest.raises(ValueError, match=message):
        checks.check_data_paths(Namespace(data_path=words))


def test_corpora_with_and_without_weights_are_taken(checks):
    for words in (["A"], ["A,B"], ["0.3", "A", "7", "B"], ["A", "B", "C"], None):
        checks.check_data_paths(Namespace(data_path=words))


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ({}, {}, "no data path is given; give --data-path"),
        (
            {"blend": (["A", "B"], None)},
            {},
            r"names 2 corpora without weights.*--data-path 0.5 A 0.5 B.*\(--data-path A,B\)",
        ),
        (
            {"blend": (["A", "B"], [0.0, 1.0])},
            {},
            "gives A the weight 0; give it a weight greater than 0",
        ),
        ({"blend": (["A", "B"], [1.0, float("nan")])}, {}, "gives B the weight nan"),
        ({"blend": (["A", "B"], [1.0, -1.0])}, {}, "gives B the weight -1"),
        ({"per_split": [None, (["V"], None), None]}, {}, "there are no training documents"),
        ({"blend": (["A"], None), "split": "0,50,50"}, {}, "there are no training documents"),
        (
            {"per_split": [(["A"], None), (["V", "W"], None), None]},
            {},
            "--valid-data-path names 2 corpora without weights",
        ),
        (
            {"per_split": [(["A"], None), (["V", "W"], None), None]},
            {"multiple_validation_sets": True},
            "needs --full-validation in Megatron",
        ),
        (
            {"per_split": [(["A"], None), (["V", "W"], [0.5, 0.5]), None]},
            {"multiple_validation_sets": True, "full_validation": True},
            "evaluates each set separately; leave the weights out",
        ),
        (
            {"per_split": [(["A"], None), (["V", "W"], None), (["T"], None)]},
            {"multiple_validation_sets": True, "full_validation": True},
            "is given with test documents",
        ),
        (
            {"per_split": [(["A"], None), None, None]},
            {"multiple_validation_sets": True, "full_validation": True},
            "--full-validation is given, but there are no validation documents",
        ),
        ({"blend": (["A"], None), "split": "90,0,10"}, {}, "test documents but no validation"),
    ],
)
def test_data_with_which_megatron_would_stop_are_refused(checks, data, changes, message):
    with pytest.raises(ValueError, match=message):
        checks.check_data(config(**data), arguments(**changes))


def test_data_that_megatron_takes_are_left_alone(checks):
    args = arguments()
    checks.check_data(config(blend=(["A"], None)), args)
    checks.check_data(config(blend=(["A", "B"], [3.0, 7.0])), args)
    checks.check_data(config(per_split=[None, (["V"], None), None]), arguments(skip_train=True))
    several = arguments(multiple_validation_sets=True, full_validation=True)
    checks.check_data(config(per_split=[(["A"], None), (["V", "W"], None), None]), several)
    assert args.eval_iters == 100


def test_without_validation_documents_nothing_is_evaluated(checks, monkeypatch):
    said = []
    monkeypatch.setattr(checks, "print_rank_0", said.append)
    args = arguments()
    checks.check_data(config(blend=(["A"], None), split="100,0,0"), args)
    assert args.eval_iters == 0
    assert said == ["> there are no validation documents, so --eval-iters is set from 100 to 0"]
