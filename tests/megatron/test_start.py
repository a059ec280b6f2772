# SPDX-License-Identifier: Apache-2.0
"""What a run says, and what it refuses, before its first step."""

from __future__ import annotations

import json
import re
from argparse import Namespace

import numpy as np
import pytest

pytest.importorskip("megatron.core")

from megatron_packing import Corpus
from megatron_packing.corpus.corpus import loss_mask_prefix
from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.corpus.record import corpus_record_path
from megatron_packing.errors import InputError
from megatron_packing.megatron.vocabulary import check_tokenizer
from megatron_packing.tokenizers.find import find_tokenizer
from tests.conftest import chat_like_lengths, write_corpus
from tests.trainer import ROW, needs_trainer, pretrain, train

LENGTHS = chat_like_lengths(60, longest=ROW)


def untrain(corpus: Corpus, documents) -> Corpus:
    """Write the loss mask of a corpus anew, 0 throughout the given documents."""
    with IndexedDatasetWriter(loss_mask_prefix(corpus.prefix), np.dtype(np.uint8)) as masks:
        trained = [
            np.full(length, document not in documents, np.uint8)
            for document, length in enumerate(corpus.num_tokens.tolist())
        ]
        masks.add(np.concatenate(trained), corpus.num_tokens.astype(np.int64))
    return Corpus(corpus.prefix)


@needs_trainer
def test_a_start_says_what_is_read_and_how_long_an_epoch_is(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", LENGTHS, with_loss_mask=False)
    flags = f"--data-path {corpus.prefix} --data-cache-path {tmp_path} --train-iters 2"
    made, found = (train(flags).output for _ in range(2))
    (path,) = (tmp_path / "pack_indexes").iterdir()
    assert "> packed" not in found
    for output in (made, found):
        (rows,) = re.findall(
            rf"> train: (\d+) rows of {ROW} positions \(the minimum, [\d.]+% used\) for "
            rf"documents 0 to 59 of {corpus.prefix}, in {path}\n",
            output,
        )
        steps = int(rows) / 4
        assert (
            f"> an epoch of {corpus.prefix} is {rows} rows, {steps:,.1f} steps of 4 rows; the "
            f"run's 2 steps make {2 / steps:,.2f} epochs\n"
        ) in output
        assert f"> train: no loss mask for {corpus.prefix}, so every token is trained" in output
        assert "--eval-iters is set" not in output  # it was 0 already
        assert "> rotary embeddings of packed rows: not fused; the angles of all pos" in output


@needs_trainer
def test_rows_that_train_nothing_are_counted_and_leave_a_loss_in_the_log(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [ROW + 1] * 8)
    untrain(corpus, {0, 1, 2})
    flags = f"--data-path {corpus.prefix} --data-cache-path {tmp_path} --train-iters 8"
    run = train(f"{flags} --global-batch-size 1 --log-interval 4 --split 1,0,0 --eval-iters 100")
    assert "> train: 3 of 8 rows have no trained token" in run.output
    assert "--eval-iters is set from 100 to 0" in run.output
    assert sum(step.loss == 0 for step in run.steps) == 3
    lines = [line for line in run.output.splitlines() if " iteration " in line and "/ " in line]
    assert all("lm loss: " in line and "nan iterations:   0" in line for line in lines)
    assert len(lines) >= 2
    untrain(corpus, set(range(8)))
    run = pretrain(flags)
    assert run.status != 0
    assert f"error: no token in the packs of {corpus.prefix} is trained" in run.output
    assert not run.steps


@needs_trainer
@pytest.mark.parametrize(
    ("flags", "ranks"), [("", 1), ("--tensor-model-parallel-size 2", 2)], ids=["TP=1", "TP=2"]
)
def test_tokens_that_the_model_does_not_have_are_refused(tmp_path, flags, ranks):
    corpus = write_corpus(tmp_path / "corpus", LENGTHS)  # tokens up to 255
    data = f"--data-path {corpus.prefix} --data-cache-path {tmp_path} --train-iters 1"
    run = pretrain(f"{data} {flags} --vocab-size 120", ranks)
    assert run.status != 0
    sentence = f"{corpus.prefix} holds token 255, but the model's padded vocabulary has 128 tokens"
    assert f"error: {sentence}" in run.output
    if ranks > 1:
        assert f"error: rank 0 could not check the data: {sentence}" in run.output
    assert not run.steps


@needs_trainer
def test_evaluations_say_what_share_they_take(tmp_path):
    corpora = [write_corpus(tmp_path / name, LENGTHS, seed=i) for i, name in enumerate("abc")]
    a, b, c = (corpus.prefix for corpus in corpora)
    flags = f"--train-data-path {a} --data-cache-path {tmp_path} --train-iters 1 --eval-iters 1"
    run = train(f"{flags} --valid-data-path 0.5 {b} 0.5 {c}", without="--split 100,0,0")
    assert "> an evaluation reads 4 rows of the valid blend: about 2 of the " in run.output
    several = "--multiple-validation-sets --full-validation"
    run = train(f"{flags} --valid-data-path {b} {c} {several}", without="--split 100,0,0")
    (rows,) = re.findall(rf"> valid: (\d+) rows of .* of {b}, in", run.output)
    assert f"> validation: a full validation of {b} reads its rows 4 times" in run.output
    assert run.reads.count(run.reads[-1]) == 4
    assert len(run.reads) == 4 + 2 * 4 * int(rows)
    once = "--eval-global-batch-size 1"
    run = train(f"{flags} --valid-data-path {b} {c} {several} {once}", without="--split 100,0,0")
    assert "reads its rows" not in run.output
    assert len(run.reads) == 4 + 2 * int(rows)


@needs_trainer
def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", LENGTHS)
    run = pretrain(f"--data-path {corpus.prefix} --data-cache-path /proc/nocache --train-iters 1")
    assert run.status != 0
    assert "error: pack indexes cannot be written to /proc/nocache/pack_indexes" in run.output
    assert "use --data-cache-path to name a writable folder" in run.output


def record(corpus: Corpus, **fields) -> Corpus:
    corpus_record_path(corpus.prefix).write_text(json.dumps(fields))
    return Corpus(corpus.prefix)


def test_a_corpus_of_another_tokenizer_is_refused(chitchat, tmp_path):
    folder = chitchat / "tokenizer"
    right = find_tokenizer(str(folder))
    settings = {"tokenizer_model": str(folder), "tokenizer_type": "HuggingFaceTokenizer"}
    args = Namespace(**settings, packing_allow_other_tokenizer=False)
    same, unknown, other = (
        write_corpus(tmp_path / name, LENGTHS) for name in ("same", "unknown", "other")
    )
    same = record(same, tokenizer="elsewhere", tokenizer_sha256=right.sha256)
    other = record(other, tokenizer="another/model", tokenizer_sha256="0" * 64)
    model = Namespace(vocab_size=32768)
    check_tokenizer([same, unknown], args, model)
    with pytest.raises(InputError, match="other was tokenized with another/model, whose content"):
        check_tokenizer([other, unknown], args, model)
    with pytest.raises(InputError, match=r"same was tokenized with elsewhere .* and .*other with"):
        check_tokenizer([same, other], args, model)
    args.packing_allow_other_tokenizer = True
    check_tokenizer([same, other], args, model)


def test_a_tokenizer_that_cannot_be_read_is_compared_by_its_size(tmp_path):
    args = Namespace(
        tokenizer_model="/nowhere/model",
        tokenizer_type="TikTokenizer",
        packing_allow_other_tokenizer=False,
    )
    fields = {"tokenizer": "one", "tokenizer_sha256": "0" * 64, "vocabulary_size": 1000}
    corpus = record(write_corpus(tmp_path / "corpus", LENGTHS), **fields)
    check_tokenizer([corpus], args, Namespace(vocab_size=1000))
    with pytest.raises(InputError, match=r"which has 1,000 tokens, but .* has 1,001"):
        check_tokenizer([corpus], args, Namespace(vocab_size=1001))
