# SPDX-License-Identifier: Apache-2.0
"""Steps are planned within their limits, evenly, and with as few micro-batches as can be."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from megatron_packing import plan_step


def flat(plan) -> list[np.ndarray]:
    return [batch for batches in plan.micro_batches for batch in batches]


def rollouts(count: int, seed: int, longest: int = 32_768) -> np.ndarray:
    lengths = np.random.default_rng(seed).lognormal(8.2, 0.8, count)
    return lengths.astype(np.int64).clip(32, longest)


@st.composite
def steps(draw):
    """Lengths and options that are in range, groups among them."""
    budget = draw(st.integers(1, 60))
    lengths = draw(st.lists(st.integers(1, budget), min_size=1, max_size=40))
    alignment = draw(st.integers(1, 4))
    assume(all(-(-length // alignment) * alignment <= budget for length in lengths))
    options = {
        "budget": budget,
        "num_ranks": draw(st.integers(1, 5)),
        "num_micro_batches_multiple_of": draw(st.integers(1, 3)),
        "max_documents": draw(st.none() | st.integers(1, 5)),
        "alignment": alignment,
    }
    if draw(st.booleans()):
        options["groups"] = draw(
            st.lists(st.integers(-3, 6), min_size=len(lengths), max_size=len(lengths))
        )
    if draw(st.booleans()):
        options["work"] = draw(
            st.lists(
                st.floats(0, 1e6, allow_nan=False), min_size=len(lengths), max_size=len(lengths)
            )
        )
    return lengths, options


def plan_or_none(lengths, options):
    """The plan, or None where a group is over a limit or a micro-batch would be empty."""
    try:
        return plan_step(lengths, **options)
    except ValueError as error:
        cause = "fit into one micro-batch|may be empty|without an empty"
        if not re.search(cause, str(error)):
            raise
        return None


def needed(lengths, options) -> int:
    """Micro-batches a rank that positions and documents ask for, rounded to the multiple."""
    taken = sum(-(-length // options["alignment"]) * options["alignment"] for length in lengths)
    most = options["max_documents"] or len(lengths)
    batches = max(-(-taken // options["budget"]), -(-len(lengths) // most))
    at_once = options["num_ranks"] * options["num_micro_batches_multiple_of"]
    return -(-batches // at_once) * options["num_micro_batches_multiple_of"]


@given(step=steps())
def test_every_limit_holds_and_every_document_is_there_once(step):
    lengths, options = step
    plan = plan_or_none(lengths, options)
    if plan is None:
        return
    batches = flat(plan)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    alignment = options["alignment"]
    for batch in batches:
        assert len(batch) > 0
        assert (np.diff(batch) > 0).all()
        assert batch.dtype == np.int64
        taken = sum(-(-lengths[document] // alignment) * alignment for document in batch)
        assert taken <= options["budget"]
        assert len(batch) <= (options["max_documents"] or len(lengths))
    counts = {len(rank) for rank in plan.micro_batches}
    assert counts == {plan.num_micro_batches}
    assert plan.num_micro_batches % options["num_micro_batches_multiple_of"] == 0
    assert needed(lengths, options) <= plan.lower_bound <= plan.num_micro_batches
    if groups := options.get("groups"):
        where = {}
        for number, batch in enumerate(batches):
            for document in batch:
                assert where.setdefault(groups[document], number) == number


@given(step=steps())
def test_the_figures_are_those_of_the_plan_and_the_plan_is_always_the_same(step):
    lengths, options = step
    plan = plan_or_none(lengths, options)
    if plan is None:
        return
    work = np.array(options.get("work", lengths), np.float64)
    of_batch = np.array([[work[batch].sum() for batch in rank] for rank in plan.micro_batches])
    mean = of_batch.sum() / options["num_ranks"]
    if mean > 0:
        assert plan.rank == pytest.approx(of_batch.sum(axis=1).max() / mean)
        assert plan.sync == pytest.approx(of_batch.max(axis=0).sum() / mean)
    again = plan_step(np.array(lengths), **options)
    assert [batch.tolist() for batch in flat(again)] == [batch.tolist() for batch in flat(plan)]


def fewest(lengths: list[int], budget: int) -> int:
    """Micro-batches of the best of all packings."""
    best = len(lengths)

    def place(next_document: int, rooms: list[int]) -> None:
        nonlocal best
        if len(rooms) >= best:
            return
        if next_document == len(lengths):
            best = len(rooms)
            return
        length = lengths[next_document]
        for room in {room for room in rooms if room >= length}:
            others = rooms.copy()
            others.remove(room)
            place(next_document + 1, [*others, room - length])
        place(next_document + 1, [*rooms, budget - length])

    place(0, [])
    return best


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_one_rank_never_needs_over_one_micro_batch_more_than_the_best_of_all_packings(lengths):
    plan = plan_step(lengths, budget=12, num_ranks=1)
    best = fewest(sorted(lengths, reverse=True), 12)
    assert plan.lower_bound <= best <= plan.num_micro_batches <= best + 1


@pytest.mark.parametrize(("count", "ranks"), [(512, 4), (8192, 64), (8192, 16)])
@pytest.mark.parametrize("seed", range(3))
def test_ranks_with_many_micro_batches_have_like_work_in_each(count, ranks, seed):
    work = (24_576.0, 1.0)  # that of a 7B model
    plan = plan_step(rollouts(count, seed), budget=32_768, num_ranks=ranks, work=work)
    assert plan.num_micro_batches == plan.lower_bound
    assert plan.rank <= 1.001
    assert plan.sync <= 1.035


def test_micro_batches_are_as_few_as_the_bound_where_hardly_a_token_is_free():
    random = np.random.default_rng(0)
    for _ in range(5):  # cut from 64 full micro-batches
        cuts = [np.sort(random.choice(np.arange(1, 4096), 7, replace=False)) for _ in range(64)]
        lengths = np.concatenate([np.diff([0, *cut, 4096]) for cut in cuts])
        plan = plan_step(random.permutation(lengths), budget=4096, num_ranks=8)
        assert plan.lower_bound == 8
        assert plan.num_micro_batches <= 9


def test_work_is_an_array_or_the_costs_of_a_token_and_of_a_squared_length():
    lengths = rollouts(300, 5)
    named = plan_step(lengths, budget=32_768, num_ranks=4, work=(3.0, 2.0))
    given_array = plan_step(
        lengths, budget=32_768, num_ranks=4, work=3.0 * lengths + 2.0 * lengths.astype(float) ** 2
    )
    assert [b.tolist() for b in flat(named)] == [b.tolist() for b in flat(given_array)]
    assert named.sync == pytest.approx(given_array.sync)


def test_ranks_are_indexed_like_a_list():
    plan = plan_step([5, 4, 3, 2], budget=10, num_ranks=2)
    ranks = plan.micro_batches
    assert len(ranks) == 2
    assert [batch.tolist() for batch in ranks[-1]] == [batch.tolist() for batch in ranks[1]]
    assert len(ranks[:]) == 2
    with pytest.raises(IndexError, match="rank 2 is not one of 2 ranks"):
        ranks[2]


@pytest.mark.parametrize(
    ("lengths", "options", "error", "sentence"),
    [
        ([], {}, ValueError, "lengths is empty; there is nothing to plan"),
        ([1.5], {}, TypeError, "lengths has dtype float64; it must hold integers"),
        ([[1]], {}, ValueError, r"lengths has shape \(1, 1\); it must have one dimension"),
        ([3, 0], {}, ValueError, r"lengths\[1\] is 0; it must be at least 1"),
        ([3, 11], {}, ValueError, r"lengths\[1\] takes 11 positions, which is more than the"),
        ([9], {"alignment": 4}, ValueError, r"lengths\[0\] takes 12 positions"),
        ([3], {"alignment": 0}, ValueError, "alignment is 0; it must be at least 1"),
        ([3], {"budget": 0}, ValueError, "budget is 0; it must be at least 1"),
        ([3], {"num_ranks": 0}, ValueError, "num_ranks is 0; it must be at least 1"),
        ([3], {"max_documents": 0}, ValueError, "max_documents is 0; it must be at least 1"),
        (
            [3],
            {"num_micro_batches_multiple_of": 0},
            ValueError,
            "num_micro_batches_multiple_of is 0; it must be at least 1",
        ),
        ([3], {"num_ranks": 2}, ValueError, "1 document is fewer than 2 ranks times 1 micro-batch"),
        ([3, 4], {"groups": [1, 1], "num_ranks": 2}, ValueError, "1 group is fewer than 2 ranks"),
        ([3, 4], {"groups": [1]}, ValueError, r"groups has shape \(1,\); it must have the shape"),
        ([8, 4], {"groups": [7, 7]}, ValueError, "group 7 has 12 positions, which is more than"),
        (
            [1, 1],
            {"groups": [7, 7], "max_documents": 1},
            ValueError,
            "group 7 has 2 documents, which is more than max_documents, 1",
        ),
        ([3, 4], {"work": [1.0]}, ValueError, r"work has shape \(1,\); it must have the shape"),
        ([3, 4], {"work": [1.0, -1]}, ValueError, r"work\[1\] is -1.0*; it must be a number"),
        ([3, 4], {"work": [1.0, float("nan")]}, ValueError, r"work\[1\] is nan; it must be"),
        ([3, 4], {"work": ["a", "b"]}, TypeError, "work has dtype <U1; it must hold numbers"),
        ([3, 4], {"work": (1.0,)}, ValueError, "work is a tuple of 1 number; give"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(lengths, options, error, sentence):
    with pytest.raises(error, match=sentence):
        plan_step(lengths, **{"budget": 10, "num_ranks": 1, **options})
