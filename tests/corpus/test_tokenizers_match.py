# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.corpus.record import CorpusRecord
from megatron_packing.corpus.tokenizers_match import check_same_tokenizer, check_vocabulary
from megatron_packing.errors import InputError

QWEN = CorpusRecord(
    tokenizer="qwen", tokenizer_sha256="aa" * 32, special_tokens={"eos_token": "<|im_end|>"}
)
LLAMA = CorpusRecord(tokenizer="llama", tokenizer_sha256="bb" * 32, special_tokens={})
QWEN_BASE = CorpusRecord(
    tokenizer="base", tokenizer_sha256="aa" * 32, special_tokens={"eos_token": "<|endoftext|>"}
)
OLD_QWEN = CorpusRecord(tokenizer="qwen", tokenizer_sha256="aa" * 32)


def test_corpora_of_one_tokenizer_go_together():
    check_same_tokenizer([])
    check_same_tokenizer([("a", QWEN), ("b", QWEN), ("old", OLD_QWEN)])


def test_corpora_that_do_not_say_what_they_are_of_are_not_compared():
    check_same_tokenizer([("a", None), ("b", QWEN), ("c", CorpusRecord()), ("d", None)])


def test_corpora_of_different_tokenizers_are_refused():
    with pytest.raises(
        InputError, match=r"a was .* with qwen \(sha256 aaaaaaaaaaaa\) and b .*llama"
    ):
        check_same_tokenizer([("a", QWEN), ("none", None), ("b", LLAMA)])
    with pytest.raises(InputError, match=r"or give --packing-allow-other-tokenizer if"):
        check_same_tokenizer([("a", QWEN), ("b", LLAMA)], way_out="--packing-allow-other-tokenizer")


def test_other_special_tokens_are_refused():
    with pytest.raises(InputError, match=r"with eos_token '<\|im_end\|>' and b with '<\|endoft"):
        check_same_tokenizer([("a", QWEN), ("b", QWEN_BASE)])


def test_the_largest_token_must_be_in_the_vocabulary():
    check_vocabulary("a", 31_999, 32_000, "the model's padded vocabulary")
    with pytest.raises(InputError, match=r"a holds token 32,000, but the model's .* has 32,000"):
        check_vocabulary("a", 32_000, 32_000, "the model's padded vocabulary")
