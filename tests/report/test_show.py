from __future__ import annotations

import numpy as np
import pytest

from megatron_packing.report.show import _end_tokens, _runs


def test_runs_are_alike_and_end_where_turns_end():
    tokens = np.array([1, 7, 2, 1, 8, 2, 1, 9, 9, 2, 5])
    mask = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0], np.uint8)
    assert _runs(tokens, mask, frozenset([2])) == [
        (0, False, [1, 7, 2]),
        (3, False, [1, 8, 2]),
        (6, False, [1]),
        (7, True, [9, 9, 2]),
        (10, False, [5]),
    ]
    assert _runs(tokens[:8], mask) == [(0, False, [1, 7, 2, 1, 8, 2, 1]), (7, True, [9])]
    assert _runs(tokens[:0], mask) == []


def test_turns_end_with_the_special_tokens_that_end_trained_ones(chitchat):
    pytest.importorskip("transformers")
    from megatron_packing.prepare.tokenizer import find_tokenizer

    tokenizer = find_tokenizer(str(chitchat / "tokenizer")).open()
    end = tokenizer.token_of("</s>")
    tokens = np.array([1, 3, 900, end, 3, 901, end, 3, 902])
    mask = np.array([0, 0, 1, 1, 0, 1, 1, 0, 1], np.uint8)
    assert _end_tokens(tokens, mask, tokenizer) == {end}
    assert _end_tokens(tokens, mask, None) == frozenset()
