# SPDX-License-Identifier: Apache-2.0
"""A part of a corpus that is another one in each epoch, against counting and brute force."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing.corpus.changing_part import ChangingPart


def lengths_of(size, seed=0):
    return np.random.default_rng(seed).integers(1, 60, size).astype(np.int32)


@given(st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_every_document_is_read_as_often_as_promised(sizes):
    size, count = sizes
    part = ChangingPart(lengths_of(size), count)
    times = np.zeros(size, int)
    for epoch in range(2 * size + 3):
        documents = part.documents(np.arange(count), epoch)
        assert len(set(documents.tolist())) == count
        times[documents] += 1
        promised = Fraction(count * (epoch + 1), size)
        assert set(times.tolist()) <= {int(promised), -int(-promised // 1)}


@given(st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_no_epoch_needs_more_room_than_the_first_nor_leaves_much(sizes):
    size, count = sizes
    lengths = lengths_of(size, seed=1)
    part = ChangingPart(lengths, count)
    planned = lengths[part.documents(np.arange(count), 0)]
    for epoch in range(size + 2):
        found = lengths[part.documents(np.arange(count), epoch)]
        assert (found <= planned).all()
        assert (planned - found).sum() <= 2 * lengths.max()


def test_the_documents_are_those_of_the_definition():
    size, count = 23, 9
    lengths = lengths_of(size)
    part = ChangingPart(lengths, count)
    order = part._by_length
    assert (np.diff(lengths[order]) >= 0).all()
    for epoch in range(50):
        shift = (epoch + 1) * count % size
        ranks = [j for j in range(size) if (j * count + shift) % size < count]
        expected = sorted(order[ranks].tolist())
        assert sorted(part.documents(np.arange(count), epoch).tolist()) == expected


def test_half_of_a_corpus_alternates():
    part = ChangingPart(lengths_of(150), 75)
    halves = [set(part.documents(np.arange(75), epoch).tolist()) for epoch in range(3)]
    assert halves[0] | halves[1] == set(range(150))
    assert halves[0] == halves[2]


def test_places_do_not_tell_lengths_and_equal_lengths_are_mixed():
    part = ChangingPart(np.arange(10_000), 5_000)
    documents = part.documents(np.arange(5_000), 0)
    assert abs(np.corrcoef(np.arange(5_000), documents)[0, 1]) < 0.05
    equal = ChangingPart(np.full(10_000, 7), 5_000)
    parity = equal.documents(np.arange(5_000), 0) % 2
    assert 0.47 < parity.mean() < 0.53


@pytest.mark.parametrize("longest", [100, 2**31, 2**40])
def test_documents_of_any_length_are_ordered(longest):
    lengths = np.array([longest, 3, 50, 3, longest - 1], np.int64)
    part = ChangingPart(lengths, 2)
    assert lengths[part._by_length].tolist() == sorted(lengths.tolist())
