# SPDX-License-Identifier: Apache-2.0
"""Models of several kinds give SentencePiece's own tokens, or are refused."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")

import sentencepiece

from megatron_packing.errors import InputError
from megatron_packing.tokenizers.find import find_tokenizer

SYMBOLS = ["<start_of_turn>", "<end_of_turn>", "\n\n", "\n", "\u2581\u2581", "<b>"]
TEXTS = [
    "hello",
    " hello  there",
    "<start_of_turn>user\nhello there<end_of_turn>\n\n\nthere",
    "    four spaces   three",
    "caf\u00e9 \u4f60\u597d \U0001f469 <b>bold</b>",
    "<start_of_turn><start_of_turn> <end_of_turn",
]


@pytest.fixture
def train(tmp_path):
    def trained(**options):
        lines = tmp_path / "lines.txt"
        lines.write_text("hello there my friend\nthe other hello of the user there\n" * 200)
        sentencepiece.SentencePieceTrainer.train(
            input=str(lines),
            model_prefix=str(tmp_path / "tokenizer"),
            **{
                "model_type": "bpe",
                "vocab_size": 320,
                "byte_fallback": True,
                "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False,
                "minloglevel": 2,
                **options,
            },
        )
        return tmp_path / "tokenizer.model"

    return trained


@pytest.mark.parametrize("add_dummy_prefix", [False, True])
def test_a_model_like_gemmas(train, add_dummy_prefix):
    path = train(
        user_defined_symbols=SYMBOLS,
        bos_piece="<bos>",
        eos_piece="<eos>",
        pad_piece="<pad>",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        add_dummy_prefix=add_dummy_prefix,
    )
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    source = find_tokenizer(str(path))
    assert source.special_tokens == {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    assert source.text_prefix == (" " if add_dummy_prefix else "")
    tokenizer = source.open()
    assert tokenizer.vocabulary_size == len(reference)
    assert tokenizer.token_of("<eos>") == 1
    # SentencePiece puts its space only before a text that does not begin with a symbol.
    texts = [text for text in TEXTS if not (add_dummy_prefix and text.startswith("<"))]
    for text in texts:
        (found,) = tokenizer.tokenize([source.text_prefix + text])
        assert found.ids.tolist() == reference.encode(text), text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram", "vocab_size": 275}, "it is not BPE"),
        ({"byte_fallback": False, "vocab_size": 60}, "it has no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "it normalizes texts"),
        ({"remove_extra_whitespaces": True}, "it removes extra white space"),
        ({"treat_whitespace_as_suffix": True}, "it puts white space after words"),
    ],
)
def test_other_kinds_are_refused(train, options, reason):
    with pytest.raises(InputError, match=reason):
        find_tokenizer(str(train(**options)))


def test_it_is_said_that_protobuf_is_missing(train, monkeypatch):
    path = train()
    for name in [name for name in sys.modules if name.startswith("sentencepiece.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sentencepiece, "sentencepiece_model_pb2", raising=False)
    monkeypatch.setitem(sys.modules, "google", None)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(InputError, match=r"this tokenizer needs protobuf, .* --no-deps protobuf$"):
        find_tokenizer(str(path))


def test_it_is_said_that_protobuf_is_of_another_release(train, monkeypatch):
    from google.protobuf import runtime_version

    path = train()
    for name in [name for name in sys.modules if name.startswith("sentencepiece.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sentencepiece, "sentencepiece_model_pb2", raising=False)

    def older(*_):
        raise runtime_version.VersionError("gencode 7.36.1 runtime 6.33.0.\nMore of it.")

    monkeypatch.setattr(runtime_version, "ValidateProtobufRuntimeVersion", older)
    with pytest.raises(InputError) as caught:
        find_tokenizer(str(path))
    assert str(caught.value) == (
        f"{path} is read with sentencepiece, which the installed protobuf does not fit (gencode "
        f"7.36.1 runtime 6.33.0.); install another with: pip install --upgrade --no-deps protobuf"
    )
