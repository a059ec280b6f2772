# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from megatron_packing import Corpus
from megatron_packing.cli import main
from megatron_packing.corpus.joined import open_corpus
from megatron_packing.report.show import _end_tokens, _runs, decode
from tests.conftest import write_corpus


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
    from megatron_packing.tokenizers.find import find_tokenizer

    tokenizer = find_tokenizer(str(chitchat / "tokenizer")).open()
    end = tokenizer.token_of("</s>")
    tokens = np.array([1, 3, 900, end, 3, 901, end, 3, 902])
    mask = np.array([0, 0, 1, 1, 0, 1, 1, 0, 1], np.uint8)
    assert _end_tokens(tokens, mask, tokenizer) == {end}
    assert _end_tokens(tokens, mask, None) == frozenset()


@pytest.fixture
def chat(chitchat, write_jsonl, tmp_path, capsys, monkeypatch):
    """Make a corpus whose texts steer terminals, from a relative path of its tokenizer."""
    pytest.importorskip("transformers")
    records = [{"prompt": NASTY, "completion": f"one {NASTY}"}, {"prompt": "a", "completion": "b"}]
    path = write_jsonl(*records)
    shutil.copytree(chitchat / "tokenizer", tmp_path / "data" / "tokenizer")
    words = ["tokenize", str(path), "--output-prefix", "data/chat", "--workers", "1"]
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--tokenizer", "data/tokenizer"]) == 0
    capsys.readouterr()
    return tmp_path / "data" / "chat"


NASTY = "\x1b]0;PWNED\x07\x1b[2J\x1b[1A\x9b2K\r\u202egnp"


def shown(capsys, *words) -> str:
    assert main(["show", *map(str, words)]) == 0
    text = capsys.readouterr().out
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    return text


def test_what_steers_a_terminal_is_shown_and_not_sent(chat, tmp_path, capsys):
    text = shown(capsys, chat, "--document", 0)
    assert "␛]0;PWNED␇␛[2J␛[1A\\x9b2K␍\\u202egnp" in text.replace("\n", "").replace(" " * 30, "")
    words = ["pack", str(chat), "--sequence-length", "256", "--output", str(tmp_path / "packs")]
    assert main(words) == 0
    assert "␛]0;PWNED␇" in shown(capsys, tmp_path / "packs", "--pack", 0)


def test_a_relative_tokenizer_is_found_from_other_folders(chat, tmp_path, capsys, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert "[INST] a[/INST]" in shown(capsys, chat, "--document", 1)
    assert "[INST] a[/INST]" in shown(capsys, "../data/chat", "--document", 1)
    shutil.rmtree(tmp_path / "data" / "tokenizer")
    assert main(["show", str(chat), "--document", "1"]) == 1
    assert "'data/tokenizer' could not be loaded" in capsys.readouterr().err
    ids = " ".join(map(str, Corpus(chat).tokens(1)[:3]))
    assert ids in shown(capsys, chat, "--document", 1, "--ids")


def test_a_corpus_is_described(chat, tmp_path, capsys):
    text = shown(capsys, chat)
    corpus = Corpus(chat)
    lines = {line[:20].strip(): line[20:].strip() for line in text.splitlines()}
    assert lines["documents"] == "2"
    assert lines["tokens"] == str(corpus.num_tokens.sum())
    assert lines["tokenizer"] == "data/tokenizer"
    trained = sum(int(corpus.loss_mask(i).sum()) for i in range(2))
    assert lines["trained"].startswith(f"{trained} (")
    assert f"most {corpus.num_tokens.max()}" in lines["tokens per document"]
    bare = write_corpus(tmp_path / "bare", [5, 6], with_loss_mask=False)
    text = shown(capsys, bare.prefix)
    assert "11 (100.0%); there is no loss mask" in text
    assert "not recorded" in text
    text = shown(capsys, f"{chat},{bare.prefix}:2")
    assert f"{trained + 22:,} (" in text


@pytest.mark.parametrize("joined", ["", ":2.5"])
def test_trained_tokens_are_counted_in_the_loss_mask(tmp_path, capsys, joined):
    """The record says what was written; the count is what a reader of each document finds."""
    corpus = open_corpus(f"{write_corpus(tmp_path / 'chat', [9, 12, 5, 30]).prefix}{joined}")
    expected = sum(int(corpus.loss_mask(i).sum()) for i in range(len(corpus)))
    assert 0 < expected < int(np.sum(corpus.num_tokens))
    assert main(["show", str(corpus.prefix), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["num_trained_tokens"] == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [(0, "_corpus.json counts {} trained tokens, but"), (2, "chat_loss_mask.bin has 2 in docum")],
)
def test_a_loss_mask_that_was_changed_is_not_shown_as_the_record_has_it(
    chat, capsys, value, message
):
    mask = chat.with_name("chat_loss_mask.bin")
    content = np.fromfile(mask, np.uint8)
    np.full(len(content), value, np.uint8).tofile(mask)
    assert main(["show", str(chat)]) == 1
    output = capsys.readouterr()
    assert message.format(int(content.sum())) in output.err
    assert output.out == ""


def test_documents_of_several_corpora_are_named_and_decoded(chat, tmp_path, capsys):
    other = write_corpus(tmp_path / "other", [5, 6, 7])
    words = ["pack", str(chat), f"{other.prefix}:2", "--sequence-length", "256"]
    assert main([*words, "--output", str(tmp_path / "packs")]) == 0
    capsys.readouterr()
    text = shown(capsys, tmp_path / "packs", "--pack", 0)
    assert f"document 1 ({chat} 1), " in text
    assert "[INST] a[/INST]" in text
    for number in range(6):
        assert f"document {2 + number} ({other.prefix} {number % 3}), " in text
    assert " ".join(map(str, other.tokens(0))) in text
    assert f"document 4 of 8 ({other.prefix} 2): 7 tokens" in shown(
        capsys, tmp_path / "packs", "--document", 4
    )


def test_tokens_that_the_tokenizer_lacks_are_shown_as_ids(chitchat):
    pytest.importorskip("transformers")
    from megatron_packing.tokenizers.find import find_tokenizer

    tokenizer = find_tokenizer(str(chitchat / "tokenizer")).open()
    assert decode([1, 10**8, 2], tokenizer) == "<s><token 100000000></s>"
