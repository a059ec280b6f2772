# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from megatron_packing.errors import InputError
from megatron_packing.index.build import build_pack_index
from megatron_packing.planning.settings import PlanSettings
from megatron_packing.stream.order import ORDER_VERSION
from megatron_packing.stream.record import (
    RECORD,
    begin_new,
    describe_stream,
    difference,
    go_on,
    holds_digests,
    read_streams,
    write_streams,
)
from tests.conftest import chat_like_lengths, write_corpus

ROW = 64
LENGTHS = chat_like_lengths(60, longest=ROW)


def one_after_another(weights, samples):
    """Rows of each dataset where samples are dealt by turns."""
    count = len(weights)
    return [samples // count + (i < samples % count) for i in range(count)]


@pytest.fixture
def make(tmp_path):
    def make_index(name, seed=0, strategy="optimal"):
        corpus = write_corpus(tmp_path / f"corpus{seed}", LENGTHS, seed=seed)
        settings = PlanSettings(strategy=strategy, sequence_length=ROW)
        return build_pack_index(corpus, settings, tmp_path / name)

    return make_index


def first_rows(stream):
    return [packs["first row"] for packs in stream["datasets"]]


def test_a_copy_of_an_index_is_the_same_stream_wherever_it_began(make):
    was = describe_stream([make("one")], seed=3)
    now = describe_stream([make("two")], seed=3)
    was["first sample"], was["datasets"][0]["first row"] = 40, 12
    assert difference(was, now) is None


def test_differences_are_named(make):
    index = make("one")
    was = describe_stream([index], seed=3)
    assert difference(was, describe_stream([index], seed=4)) == "seed was 3 and is 4"
    other = describe_stream([make("two", strategy="greedy")], seed=3)
    assert "datasets 0 strategy was optimal and is greedy" in difference(was, other)
    both = describe_stream([index, index], seed=3, weights=[0.5, 0.5])
    assert difference(was, both) == "the number of datasets was 1 and is 2"
    now = {**was, "order version": ORDER_VERSION + 1}
    assert difference(was, now) == f"order version was {ORDER_VERSION} and is {ORDER_VERSION + 1}"


def test_other_arrays_under_the_same_settings_are_another_stream(make):
    was, now = (describe_stream([make(name)], seed=3) for name in ("one", "two"))
    assert difference(was, now) is None
    now["datasets"][0]["arrays"] = "0" * 64
    assert "datasets 0 has the same settings but other packs" in difference(was, now)


def test_records_of_version_1_are_compared_on_what_they_hold(make, tmp_path):
    now = describe_stream([make("one")], seed=3)
    left_out = ("arrays", "first row")
    packs = {name: value for name, value in now["datasets"][0].items() if name not in left_out}
    record = {"format_version": 1, "seed": 3, "weights": [1.0], "datasets": [packs]}
    (tmp_path / RECORD).write_text(json.dumps(record))
    (was,) = read_streams(tmp_path)
    assert not holds_digests(was)
    assert difference(was, now) is None
    assert go_on([was], now, 8) == [now]
    packs["packs"] += 1
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert "datasets 0 packs was" in difference(read_streams(tmp_path)[0], now)


def test_what_was_written_is_read(make, tmp_path):
    streams = [describe_stream([make("one")], seed=3)]
    assert read_streams(tmp_path) is None
    write_streams(tmp_path / "new" / "folder", streams)
    assert read_streams(tmp_path / "new" / "folder") == streams


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format_version": 3, "streams": []}',
        '{"format_version": 2, "streams": []}',
        '{"format_version": 2, "streams": [{"seed": 1, "weights": [1], "datasets": [7]}]}',
        '{"format_version": 1, "seed": 1}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_is_refused_with_its_name(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(InputError, match=RECORD):
        read_streams(tmp_path)


def test_a_new_stream_goes_on_with_unread_rows_and_begins_with_first_ones(make):
    chat, code, more = make("chat", seed=1), make("code", seed=2), make("more", seed=3)
    old = describe_stream([chat, code], seed=3, weights=[0.5, 0.5])
    second = begin_new(
        [old], describe_stream([more, code], seed=3, weights=[0.5, 0.5]), 41, one_after_another
    )
    assert [stream["first sample"] for stream in second] == [0, 41]
    assert first_rows(second[1]) == [0, 20]
    # A dataset that was left out for a while goes on where it was left.
    third = begin_new(second, describe_stream([chat, code], seed=3), 51, one_after_another)
    assert [stream["first sample"] for stream in third] == [0, 41, 51]
    assert first_rows(third[2]) == [21, 25]
    # Under another seed rows have another order, so there is no unread rest.
    assert first_rows(
        begin_new([old], describe_stream([chat], seed=4), 41, one_after_another)[1]
    ) == [0]


def test_a_run_goes_on_with_the_stream_that_its_checkpoint_was_read_from(make):
    first = describe_stream([make("first", seed=1)], seed=3)
    second = describe_stream([make("second", seed=2)], seed=3)
    streams = begin_new([first], second, 40, one_after_another)
    assert go_on(streams, second, 60) == streams
    assert go_on(streams, first, 60) is None
    # At the sample where the second begins, with nothing of it saved yet, both go on.
    assert go_on(streams, second, 40) == streams
    assert go_on(streams, first, 40) == streams[:1]
    # An earlier checkpoint was read from the first alone.
    assert go_on(streams, first, 20) == streams[:1]
    assert go_on(streams, second, 20) is None
