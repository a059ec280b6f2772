# SPDX-License-Identifier: Apache-2.0
"""Rows that are stored hold the corpus's tokens and masks of 0 and 1, or the corpus is refused."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.interchange.stored_rows import rows_of
from megatron_packing.planning.settings import PlanSettings
from tests.conftest import write_corpus

END = 3


class Changed:
    """A corpus whose tokens or masks are others."""

    def __init__(self, corpus, tokens=lambda tokens: tokens, mask=lambda mask: mask):
        self._corpus, self._tokens, self._mask = corpus, tokens, mask
        self.prefix, self.num_tokens = corpus.prefix, corpus.num_tokens

    def tokens(self, *place):
        return self._tokens(self._corpus.tokens(*place))

    def loss_mask(self, *place):
        return self._mask(self._corpus.loss_mask(*place))


@pytest.fixture
def packed(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 9, 2, 7])
    settings = PlanSettings(strategy="optimal", sequence_length=12)
    return build_pack_index(corpus, settings, tmp_path / "packs"), corpus


@pytest.mark.parametrize("value", [2, 127, 128, 255])
def test_a_mask_of_other_values_is_stored_as_ones(packed, value):
    index, corpus = packed
    changed = Changed(corpus, mask=lambda mask: mask * np.uint8(value))
    pairs = zip(rows_of(index, corpus, END), rows_of(index, changed, END), strict=True)
    for usual, stored in pairs:
        assert set(stored.loss_mask.tolist()) == {0, 1}
        assert np.array_equal(stored.loss_mask, usual.loss_mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: tokens.astype(np.float32) + 0.5, "type float32, which are not token ids"),
        (lambda tokens: tokens.astype(np.int64) + 2**33, "holds 85.*, which is not a token from 0"),
        (lambda tokens: -1 - tokens.astype(np.int32), "holds -.*, which is not a token from 0"),
    ],
)
def test_what_is_no_token_of_32_bits_is_refused(packed, change, message):
    index, corpus = packed
    with pytest.raises(InputError, match=message):
        list(rows_of(index, Changed(corpus, tokens=change), END))
