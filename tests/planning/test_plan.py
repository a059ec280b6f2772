# SPDX-License-Identifier: Apache-2.0
"""Plans of all strategies: what they hold, and what they refuse."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megatron_packing import STRATEGIES, plan_packs
from megatron_packing.planning.strategies import STRATEGY_TABLE
from tests.planning.inputs import ROW, WHOLE_DOCUMENTS, hard_lengths, lengths_in_a_row, seeds
from tests.planning.reference import (
    as_multiset,
    best_fit_decreasing,
    first_fit_decreasing,
    lengths_of_packs,
    next_fit_decreasing,
    segments_of,
)

IN_RANDOM_ORDER = [row.name for row in STRATEGY_TABLE.values() if not row.by_length]
any_lengths = st.lists(st.integers(1, 4 * ROW), min_size=1, max_size=60)


@pytest.mark.parametrize("strategy", WHOLE_DOCUMENTS)
@given(lengths=lengths_in_a_row, seed=seeds)
def test_each_document_is_in_one_pack_and_no_pack_is_overfull(strategy, lengths, seed):
    plan = plan_packs(np.array(lengths), ROW, strategy=strategy, seed=seed)
    assert sorted(plan.document_ids.tolist()) == list(range(len(lengths)))
    assert max(map(sum, lengths_of_packs(plan, lengths))) <= ROW
    assert plan.num_positions == sum(lengths)
    assert plan.utilisation == sum(lengths) / (plan.num_packs * ROW)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(lengths=any_lengths, seed=seeds)
def test_each_position_is_in_one_pack_when_documents_are_split(strategy, lengths, seed):
    plan = plan_packs(np.array(lengths), ROW, strategy=strategy, overlong="split", seed=seed)
    packs = segments_of(plan, lengths)
    assert max(sum(length for _, _, length in pack) for pack in packs) <= ROW
    covered = [
        (document, position)
        for pack in packs
        for document, start, length in pack
        for position in range(start, start + length)
    ]
    everything = [(d, p) for d, length in enumerate(lengths) for p in range(length)]
    assert sorted(covered) == everything
    pieces = np.bincount(plan.document_ids)
    assert plan.num_documents_split == np.count_nonzero(pieces > 1)


@given(lengths=any_lengths, seed=seeds)
def test_a_split_document_fills_whole_rows_and_its_rest_is_packed(lengths, seed):
    plan = plan_packs(np.array(lengths), ROW, overlong="split", seed=seed)
    for pack in segments_of(plan, lengths):
        for document, start, length in pack:
            if length == ROW:
                assert len(pack) == 1
            else:
                assert start == lengths[document] // ROW * ROW
                assert length == lengths[document] % ROW


@given(lengths=any_lengths, seed=seeds)
def test_dropped_and_truncated_documents_are_counted(lengths, seed):
    over = [length for length in lengths if length > ROW]
    dropped = plan_packs(np.array(lengths), ROW, overlong="drop", seed=seed)
    assert sorted(dropped.document_ids) == [i for i, n in enumerate(lengths) if n <= ROW]
    assert dropped.num_documents_dropped == len(over)
    assert dropped.num_positions_lost == sum(over)

    truncated = plan_packs(np.array(lengths), ROW, overlong="truncate", seed=seed)
    kept = {d: (s, n) for pack in segments_of(truncated, lengths) for d, s, n in pack}
    assert kept == {d: (0, min(n, ROW)) for d, n in enumerate(lengths)}
    assert truncated.num_documents_truncated == len(over)
    assert truncated.num_positions_lost == sum(over) - ROW * len(over)


@given(lengths=lengths_in_a_row, seed=seeds)
def test_greedy_packs_are_those_of_next_fit_decreasing(lengths, seed):
    plan = plan_packs(np.array(lengths), ROW, strategy="greedy", seed=seed)
    assert as_multiset(lengths_of_packs(plan, lengths)) == as_multiset(
        next_fit_decreasing(lengths, ROW)
    )


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=200), row=st.integers(200, 5000))
def test_first_fit_decreasing_packs_are_those_of_the_textbook(lengths, row):
    plan = plan_packs(np.array(lengths), row, strategy="first_fit_decreasing")
    assert as_multiset(lengths_of_packs(plan, lengths)) == as_multiset(
        first_fit_decreasing(lengths, row)
    )


@given(lengths=lengths_in_a_row)
def test_best_fit_decreasing_packs_are_as_full_as_those_of_the_textbook(lengths):
    plan = plan_packs(np.array(lengths), ROW, strategy="best_fit_decreasing")
    filled = [sum(pack) for pack in lengths_of_packs(plan, lengths)]
    assert sorted(filled) == sorted(map(sum, best_fit_decreasing(lengths, ROW)))


@given(lengths=lengths_in_a_row, most=st.integers(1, 9), seed=seeds)
def test_first_fit_shuffle_leaves_no_two_rows_that_fit_together(lengths, most, seed):
    plan = plan_packs(
        np.array(lengths),
        ROW,
        strategy="first_fit_shuffle",
        max_documents_per_pack=most,
        seed=seed,
    )
    open_rows = [sum(p) for p in lengths_of_packs(plan, lengths) if len(p) < most]
    assert sum(filled <= ROW // 2 for filled in open_rows) <= 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(lengths=any_lengths, alignment=st.sampled_from([1, 2, 4, 8, 16]), most=st.integers(1, 9))
def test_alignment_and_the_most_documents_of_a_pack_are_kept(strategy, lengths, alignment, most):
    plan = plan_packs(
        lengths,
        ROW,
        strategy=strategy,
        overlong="split",
        alignment=alignment,
        max_documents_per_pack=most,
    )
    packs = segments_of(plan, lengths)
    for pack in packs:
        assert sum(-(-length // alignment) * alignment for _, _, length in pack) <= ROW
        assert len(pack) <= most
    covered = np.bincount(
        plan.document_ids,
        minlength=len(lengths),
        weights=[length for pack in packs for _, _, length in pack],
    )
    assert covered.tolist() == lengths


@given(lengths=lengths_in_a_row, min_packs=st.integers(0, 80))
@example(lengths=[3, 4, 4, 5, 5, 5, 5, 10, 12, 14, 14, 15, 18, 20, 24], min_packs=6)
def test_no_pack_is_empty_while_there_are_documents_for_the_packs_asked_for(lengths, min_packs):
    plan = plan_packs(lengths, ROW, min_packs=min_packs)
    assert plan.num_packs >= max(min_packs, plan.lower_bound)
    num_empty = np.count_nonzero(np.diff(plan.pack_offsets) == 0)
    assert num_empty == max(0, min_packs - len(lengths))


def test_packs_stand_in_no_order_of_their_lengths_or_documents():
    """Rank correlations of a pack's place with what it holds are those of chance."""
    lengths = np.sort(np.random.default_rng(0).lognormal(5, 1, 40_000).astype(int).clip(1, 2048))
    plan = plan_packs(lengths, 2048, seed=7)
    packs = np.repeat(np.arange(plan.num_packs), np.diff(plan.pack_offsets))
    for quantity in (plan.document_ids, lengths[plan.document_ids]):
        assert abs(np.corrcoef(packs, quantity)[0, 1]) < 4 / np.sqrt(plan.num_packs)
    size = np.diff(plan.pack_offsets)[packs]
    share = (np.arange(len(packs)) - plan.pack_offsets[packs]) / (size - 1).clip(1)
    order = np.corrcoef(share[size > 1], lengths[plan.document_ids][size > 1])[0, 1]
    assert abs(order) < 4 / np.sqrt(len(packs))


def test_progress_is_told_and_an_exception_in_it_ends_the_planning():
    shares = []

    def stop_soon(share):
        shares.append(share)
        if len(shares) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan_packs(hard_lengths(1024), 1024, effort="high", progress=stop_soon)
    assert all(0 <= share <= 1 for share in shares)


@given(lengths=lengths_in_a_row)
def test_padding_puts_one_document_in_a_row(lengths):
    plan = plan_packs(np.array(lengths), ROW, strategy="padding")
    assert np.diff(plan.pack_offsets).tolist() == [1] * len(lengths)


@given(lengths=any_lengths, seed=seeds)
def test_random_packs_are_all_full_but_the_last(lengths, seed):
    plan = plan_packs(np.array(lengths), ROW, strategy="random", seed=seed)
    filled = [sum(pack) for pack in lengths_of_packs(plan, lengths)]
    assert filled[:-1] == [ROW] * (len(filled) - 1)
    assert plan.num_packs == -(-sum(lengths) // ROW)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(lengths=any_lengths, multiple=st.integers(1, 9))
def test_packs_are_divided_up_to_a_multiple(strategy, lengths, multiple):
    plain = plan_packs(np.array(lengths), ROW, strategy=strategy, overlong="split")
    filled = plan_packs(
        np.array(lengths), ROW, strategy=strategy, overlong="split", packs_multiple_of=multiple
    )
    assert filled.num_packs % multiple == 0
    assert filled.num_packs - plain.num_packs < multiple
    num_empty = np.count_nonzero(np.diff(filled.pack_offsets) == 0)
    if strategy in IN_RANDOM_ORDER:
        assert num_empty == filled.num_packs - plain.num_packs
    else:
        assert num_empty == max(0, filled.num_packs - len(filled.document_ids))
    assert sorted(filled.document_ids) == sorted(plain.document_ids)
    packs = segments_of(filled, lengths)
    assert max(sum(length for _, _, length in pack) for pack in packs) <= ROW


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_seed_decides_membership_and_nothing_else(strategy):
    lengths = np.random.default_rng(0).integers(1, ROW + 1, 500)
    first, again, other = (
        plan_packs(lengths, ROW, strategy=strategy, seed=seed) for seed in (1, 1, 2)
    )
    for name in ("pack_offsets", "document_ids", "segment_starts", "segment_lengths"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.document_ids, other.document_ids)
    if strategy not in IN_RANDOM_ORDER:
        assert as_multiset(lengths_of_packs(first, lengths)) == as_multiset(
            lengths_of_packs(other, lengths)
        )


@pytest.mark.parametrize("strategy", ["greedy", "first_fit_decreasing"])
def test_neighbors_do_not_depend_on_the_order_of_the_input(strategy):
    """Of 2,000 equal documents, two a row, partners are as far apart as chance has it."""
    plan = plan_packs(np.full(2000, ROW // 2), ROW, strategy=strategy, seed=3)
    pairs = plan.document_ids.reshape(-1, 2)
    distance = np.abs(pairs[:, 0] - pairs[:, 1]).mean()
    assert distance == pytest.approx(2000 / 3, rel=0.05)  # 0.05 is over 4 standard errors
    order = np.corrcoef(np.arange(2000), plan.document_ids)[0, 1]
    assert abs(order) < 4 / np.sqrt(2000)


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u2", ">i8"]
)
def test_any_integer_dtype_gives_the_same_plan(dtype):
    lengths = np.random.default_rng(0).integers(1, ROW + 1, 100)
    plan = plan_packs(lengths.astype(dtype), ROW)
    assert np.array_equal(plan.document_ids, plan_packs(lengths, ROW).document_ids)


def test_arrays_with_gaps_and_lists_are_read_right():
    lengths = np.arange(1, 31)
    spread = np.full(60, 99)
    spread[::2] = lengths
    expected = plan_packs(lengths, ROW).document_ids
    assert np.array_equal(plan_packs(spread[::2], ROW).document_ids, expected)
    assert np.array_equal(plan_packs(lengths.tolist(), ROW).document_ids, expected)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([], TypeError, "integers"),
        (np.array([], np.int64), ValueError, "empty"),
        ([[1, 2]], ValueError, "one dimension"),
        ([1.0, 2.0], TypeError, "float64"),
        ([float("nan")], TypeError, "float64"),
        ([True], TypeError, "bool"),
        ([3, 0, 4], ValueError, "document 1 has length 0"),
        ([3, 4, -7], ValueError, "document 2 has length -7"),
        ([3, ROW + 1], ValueError, f"document 1 has {ROW + 1} positions"),
        (np.array([2**63], np.uint64), OverflowError, "9223372036854775808"),
        ([2**62, 2**62], OverflowError, "add up to more than"),
    ],
)
def test_bad_lengths_are_named(lengths, error, message):
    with pytest.raises(error, match=message):
        plan_packs(lengths, ROW)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "best"}, "strategy is 'best'"),
        ({"overlong": "cut"}, "overlong is 'cut'"),
        ({"packs_multiple_of": 0}, "packs_multiple_of is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"strategy": "random", "overlong": "drop"}, "cuts documents"),
        ({"effort": "some"}, "effort is 'some'"),
        ({"alignment": 0}, "alignment is 0"),
        ({"alignment": 2 * ROW}, f"alignment is {2 * ROW}; it must be a divisor"),
        ({"alignment": 5}, "alignment is 5; it must be a divisor"),
        ({"max_documents_per_pack": 0}, "max_documents_per_pack is 0"),
        ({"min_packs": -1}, "min_packs is -1"),
        ({"min_packs": 2**62, "strategy": "random"}, "min_packs is 4611686018427387904"),
        ({"packs_multiple_of": 2**62 + 1}, "packs_multiple_of is 4611686018427387905"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"sequence_length": 1 << 40}, "sequence_length is 1099511627776"),
        ({"sequence_length": 1 << 80}, "sequence_length is .* does not fit in 64 bits"),
        ({"min_packs": 1 << 36}, "at least 68719476736 packs, more than the .* memory"),
        ({"packs_multiple_of": 1 << 36}, "at least 68719476736 packs, more than the .* memory"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        plan_packs([1, 2], **{"sequence_length": ROW, **options})


@pytest.mark.parametrize("value", [float("nan"), 4096.0, "64", None])
def test_options_that_are_not_integers_are_named(value):
    with pytest.raises(TypeError, match=r"sequence_length is .*; it must be an integer"):
        plan_packs([1, 2], value)


@pytest.mark.parametrize("strategy", ["random", "optimal", "first_fit_shuffle"])
@pytest.mark.parametrize("length", [1 << 44, (1 << 63) - 1])
def test_more_segments_than_memory_holds_are_refused_before_it_is_asked_for(strategy, length):
    with pytest.raises(ValueError, match=r"at least \d+ segments, more than the \d+ GiB"):
        plan_packs([length], 64, strategy=strategy, overlong="split")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("size", [2_000, 100_000])  # on one thread, on several
def test_lengths_that_change_meanwhile_give_a_plan_or_are_refused(strategy, size):
    some, others = np.random.default_rng(0).integers(1, 2 * ROW, (2, size)).astype(np.int32)
    lengths = some.copy()
    planned = threading.Event()

    def write():
        while not planned.is_set():
            lengths[:] = others
            lengths[:] = some

    writer = threading.Thread(target=write)
    writer.start()
    messages = []
    try:
        for _ in range(20):
            try:
                plan = plan_packs(lengths, ROW, strategy=strategy, overlong="split")
            except ValueError as error:
                messages.append(str(error))
                if len(messages) == 8:
                    break
            else:
                assert plan.document_ids.min() >= 0
                assert plan.document_ids.max() < size
    finally:
        planned.set()
        writer.join()
    assert all("changed while they were planned" in message for message in messages)
    assert messages or size < 100_000


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (60_000_000, {}),
        (10_000_000, {"strategy": "first_fit_shuffle"}),
        (20_000_000, {"strategy": "random"}),
        (500_000, {"overlong": "split", "sequence_length": 2}),
    ],
)
@pytest.mark.slow
@pytest.mark.long_plan
def test_no_stretch_of_planning_is_without_a_look_at_ctrl_c(count, options):
    lengths = np.full(count, 100, np.uint16)
    options = {"sequence_length": 4096, **options}
    # Without the kernel's time: it may take seconds to find memory for large arrays.
    looks = [os.times().user]
    plan_packs(lengths, progress=lambda _: looks.append(os.times().user), **options)
    looks.append(os.times().user)
    between = 0.2  # looks are 100 ms apart, in which two threads work
    assert np.diff(looks).max() < 0.5 * (looks[-1] - looks[0]) + between


@pytest.mark.long_plan
def test_documents_of_a_third_of_a_long_row_do_not_take_a_search_of_the_whole_row_each():
    row = 1 << 22
    lengths = np.random.default_rng(0).integers(row // 3 - row // 50, row // 3 + row // 50, 3_000)
    started = time.process_time()
    first_fit_shuffle = plan_packs(lengths, row, strategy="first_fit_shuffle")
    between = time.process_time()
    plan = plan_packs(lengths, row)
    assert plan.num_packs <= first_fit_shuffle.num_packs
    assert as_multiset(lengths_of_packs(plan, lengths))
    assert time.process_time() - between < 30 * (between - started)


def test_rows_of_a_million_positions_are_planned():
    lengths = np.random.default_rng(0).integers(1, 1 << 20, 300)
    plan = plan_packs(lengths, 1 << 20)
    assert as_multiset(lengths_of_packs(plan, lengths)) == as_multiset(
        first_fit_decreasing(lengths.tolist(), 1 << 20)
    )
