# SPDX-License-Identifier: Apache-2.0
"""Rows of a corpus over a fraction of an epoch: each document is read as often as promised."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from megatron_packing.corpus.indexed_dataset import IndexedDatasetWriter
from megatron_packing.corpus.joined import open_corpus
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.thd.rows import PackedRows

SIZES = {"chat": 23, "code": 31}
MARK = 1000  # each document begins with a token of its own over this


def write(prefix, count, first_token):
    random = np.random.default_rng(count)
    lengths = random.integers(2, 70, count)
    lengths[: count // 4] = 20
    documents = [random.integers(0, 99, length) for length in lengths]
    for number, tokens in enumerate(documents):
        tokens[0] = first_token + number
    with IndexedDatasetWriter(prefix, np.dtype(np.int32)) as writer:
        writer.add(np.concatenate(documents), lengths)
    return [tokens.tolist() for tokens in documents]


@pytest.mark.parametrize("normaliser", ["token", "sequence"])
@pytest.mark.parametrize("overlong", ["split", "truncate", "drop"])
def test_documents_come_as_often_as_promised_and_whole(tmp_path, overlong, normaliser):
    chat = write(tmp_path / "chat", SIZES["chat"], MARK)
    code = write(tmp_path / "code", SIZES["code"], MARK + 100)
    corpus = open_corpus(f"{tmp_path}/chat:1.3,{tmp_path}/code:0.4")
    row = 32 if overlong == "split" else 80
    plan = PlanSettings(strategy="optimal", sequence_length=row, overlong=overlong, seed=3)
    index = build_pack_index(corpus, plan, tmp_path / "packs")
    rows = PackedRows(
        index=index,
        corpus=corpus,
        seed=5,
        new_order_each_epoch=True,
        normaliser=normaliser,
    )
    promised = {
        **{tuple(tokens): (23 + 7) / 23 for tokens in chat},
        **{tuple(tokens): 12 / 31 for tokens in code},
    }
    read: Counter[tuple[int, ...]] = Counter()
    positions: Counter[int] = Counter()
    for epoch in range(9):
        for sample in range(epoch * len(index), (epoch + 1) * len(index)):
            arrays = rows.row(sample)
            begin = 0
            for length in arrays["real_lengths"][arrays["real_lengths"] > 0].tolist():
                tokens = arrays["tokens"][begin : begin + length].tolist()
                labels = arrays["labels"][begin : begin + length].tolist()
                if arrays["loss_mask"][begin : begin + length].any():
                    document = (*tokens, labels[-1])
                    positions[epoch] += length
                    if overlong != "split":
                        read[document] += 1
                begin += length
            if overlong == "split":
                starts = arrays["tokens"][arrays["tokens"] >= MARK].tolist()
                read.update((token,) for token in starts)
        for document, times in promised.items():
            key = document[:1] if overlong == "split" else document
            exact = times * (epoch + 1)
            assert math.floor(exact) <= read[key] <= math.ceil(exact), (epoch, exact, document)
    longest = max(map(len, promised))
    planned = positions[0]
    assert planned == index.figures.num_positions
    assert all(planned - 4 * longest <= count <= planned for count in positions.values())


def test_an_evaluation_reads_the_same_part_again_and_again(tmp_path):
    write(tmp_path / "code", SIZES["code"], MARK)
    corpus = open_corpus(f"{tmp_path}/code:0.4")
    plan = PlanSettings(strategy="optimal", sequence_length=80)
    index = build_pack_index(corpus, plan, tmp_path / "packs")
    rows = PackedRows(index=index, corpus=corpus, seed=5, new_order_each_epoch=False)
    for sample in range(len(index)):
        again = rows.row(sample + 3 * len(index))
        assert all(np.array_equal(array, again[name]) for name, array in rows.row(sample).items())
