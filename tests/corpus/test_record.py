# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os

import pytest

from megatron_packing.corpus.record import (
    CorpusRecord,
    corpus_record_path,
    read_corpus_record,
)
from megatron_packing.errors import InputError


@pytest.fixture
def path(tmp_path):
    return corpus_record_path(tmp_path / "corpus")


def read(path):
    return read_corpus_record(path.with_name("corpus"))


def test_all_fields_are_read(path):
    fields = {
        "tokenizer": "models/qwen",
        "tokenizer_sha256": "ab",
        "vocabulary_size": 151_665,
        "special_tokens": {"eos_token": "<|im_end|>"},
        "largest_token": 151_644,
        "num_documents": 3,
        "num_tokens": 70,
        "num_trained_tokens": 30,
        "has_loss_mask": True,
        "loss_on": "assistant",
    }
    path.write_text(json.dumps({**fields, "chat_template": {"sha256": "cd"}, "inputs": []}))
    assert read(path) == CorpusRecord(**fields, chat_template_sha256="cd")


def test_fields_that_an_older_record_lacks_are_none(path):
    assert read(path) is None
    path.write_text("{}")
    assert read(path) == CorpusRecord()
    path.write_text('{"chat_template": null}')
    assert read(path) == CorpusRecord()


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, False),
        ({"num_tokens": 5, "num_trained_tokens": 5}, False),
        ({"num_tokens": 5, "num_trained_tokens": 4}, True),
        ({"num_tokens": 5, "num_trained_tokens": 5, "has_loss_mask": True}, True),
        ({"num_tokens": 5, "num_trained_tokens": 5, "has_loss_mask": False}, False),
    ],
)
def test_a_record_says_whether_the_corpus_needs_its_loss_mask(fields, needed):
    assert CorpusRecord(**fields).needs_loss_mask is needed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is damaged"),
        (b"\xff", "is damaged"),
        (b"[]", "holds a JSON list, not an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"num_tokens": NaN}', "NaN is not JSON"),
        (b'{"num_tokens": true}', "has True for num_tokens, not int"),
        (b'{"num_tokens": 5.0}', "has 5.0 for num_tokens, not int"),
        (b'{"num_tokens": -1}', "has -1 for num_tokens, which is not a count"),
        (b'{"largest_token": 1' + b"0" * 400 + b"}", "for largest_token, which is not a count"),
        (b'{"tokenizer": 7}', "has 7 for tokenizer, not str"),
        (b'{"special_tokens": ["<s>"]}', "for special_tokens, not dict"),
        (b'{"special_tokens": {"bos_token": 1}}', "has 1 for bos_token in special_tokens"),
        (b'{"chat_template": "x"}', "for chat_template, not dict"),
    ],
)
def test_a_damaged_record_is_named(path, content, message):
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read(path)
    assert str(refusal.value).startswith(str(path))


def test_what_is_no_regular_file_is_refused_without_waiting(path):
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a pipe, not a regular file"):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="is a folder, not a regular file"):
        read(path)
    path.rmdir()
    path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is a device, not a regular file"):
        read(path)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(InputError, match=r"\(a link to nowhere\) does not exist"):
        read(path)
