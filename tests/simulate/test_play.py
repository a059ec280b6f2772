# SPDX-License-Identifier: Apache-2.0
"""Played schedules, held against formulas and against workers that send each other results."""

from __future__ import annotations

import heapq
from itertools import pairwise

import numpy as np
import pytest

from megatron_packing.simulate.play import play
from megatron_packing.simulate.schedule import Schedule


def equal(schedule: Schedule, forward: float, backward: float, transfer: float = 0.0):
    shape = (1, schedule.num_stages, schedule.num_chunks, schedule.num_micro_batches)
    return play(schedule, np.full(shape, forward), np.full(shape, backward), transfer)


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("groups", [1, 2, 7])
def test_equal_micro_batches_have_the_bubble_of_the_formula(stages, groups):
    micro_batches = stages * groups
    played = equal(Schedule(stages, 1, micro_batches), 1.0, 2.0)
    ideal = 3.0 * micro_batches
    assert played.seconds[0] == pytest.approx(ideal * (1 + (stages - 1) / micro_batches))
    assert played.idle[0] == pytest.approx(np.full(stages, 3.0 * (stages - 1)))


@pytest.mark.parametrize("stages", [2, 4, 8])
@pytest.mark.parametrize("chunks", [2, 3, 5])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_interleaving_divides_the_bubble_by_the_chunks(stages, chunks, groups):
    micro_batches = stages * groups
    played = equal(Schedule(stages, chunks, micro_batches), 1.0, 2.0)
    ideal = 3.0 * micro_batches * chunks
    bubble = (stages - 1) / (micro_batches * chunks)
    assert played.seconds[0] == pytest.approx(ideal * (1 + bubble))


def test_one_micro_batch_goes_down_and_up_with_every_transfer():
    played = equal(Schedule(4, 1, 1), 1.0, 2.0, transfer=0.5)
    assert played.seconds[0] == pytest.approx(4 * 3.0 + 6 * 0.5)


class Worker:
    """A stage that knows what is next and computes once its input is in its mailbox.

    Written from the papers, with mailboxes and a clock, and nothing of the code under test: a
    forward pass of layer block ``chunk * stages + stage`` sends to the next block, a backward pass
    to the block before.
    """

    def __init__(self, stage, stages, chunks, micro_batches):
        self.stage, self.stages, self.chunks = stage, stages, chunks
        self.mail: set[tuple[str, int, int]] = set()
        self.free_at = 0.0
        self.is_busy = False
        self.todo = self.list_passes(micro_batches)
        self.busy = 0.0

    def list_passes(self, micro_batches):
        if self.chunks == 1:
            ahead = min(self.stages - 1 - self.stage, micro_batches)
            forwards = [("F", self.stage, number) for number in range(micro_batches)]
            backwards = [("B", self.stage, number) for number in range(micro_batches)]
        else:
            ahead = 2 * (self.stages - self.stage - 1) + (self.chunks - 1) * self.stages
            forwards, backwards = [], []
            for virtual in range(micro_batches * self.chunks):
                in_group = virtual % (self.stages * self.chunks)
                number = virtual // (self.stages * self.chunks) * self.stages
                number += in_group % self.stages
                chunk = in_group // self.stages
                forwards.append(("F", chunk * self.stages + self.stage, number))
                back = self.chunks - 1 - chunk
                backwards.append(("B", back * self.stages + self.stage, number))
            ahead = min(ahead, len(forwards))
        passes = forwards[:ahead]
        for number in range(len(forwards) - ahead):
            passes += [forwards[ahead + number], backwards[number]]
        return passes + backwards[len(forwards) - ahead :]


def run_workers(forward, backward, transfer):
    """Let workers run; returns when the last ends and what each computed, in seconds."""
    stages, chunks, micro_batches = forward.shape
    workers = [Worker(stage, stages, chunks, micro_batches) for stage in range(stages)]
    for number in range(micro_batches):
        workers[0].mail.add(("F", 0, number))
    last_block = stages * chunks - 1
    events: list[tuple[float, int, str, int, object]] = []
    count = 0

    def begin(worker, now):
        nonlocal count
        if worker.is_busy or not worker.todo or worker.todo[0] not in worker.mail:
            return
        kind, block, number = worker.todo.pop(0)
        durations = forward if kind == "F" else backward
        took = durations[worker.stage, block // stages, number]
        worker.is_busy = True
        worker.busy += took
        count += 1
        heapq.heappush(events, (now + took, count, "end", worker.stage, (kind, block, number)))

    for worker in workers:
        begin(worker, 0.0)
    now = 0.0
    while events:
        now, _, what, stage, item = heapq.heappop(events)
        worker = workers[stage]
        if what == "arrive":
            worker.mail.add(item)
        else:
            worker.is_busy = False
            kind, block, number = item
            if (kind, block) == ("F", last_block):
                target = ("B", block, number)
            elif kind == "F":
                target = ("F", block + 1, number)
            else:
                target = ("B", block - 1, number) if block else None
            if target is not None:
                to = target[1] % stages
                count += 1
                arrival = now if to == stage else now + transfer
                heapq.heappush(events, (arrival, count, "arrive", to, target))
        begin(worker, now)
    assert not any(worker.todo for worker in workers)
    return now, [worker.busy for worker in workers]


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_unequal_micro_batches_end_when_workers_that_pass_mail_end(chunks):
    random = np.random.default_rng(chunks)
    for trial in range(60):
        stages = int(random.integers(2, 6)) if chunks > 1 else int(random.integers(1, 7))
        micro_batches = stages * int(random.integers(1, 5))
        shape = (3, stages, chunks, micro_batches)
        forward = random.lognormal(0, 1, shape)
        backward = random.lognormal(0.7, 1, shape)
        transfer = float(random.choice([0.0, 0.3]))
        played = play(Schedule(stages, chunks, micro_batches), forward, backward, transfer)
        for pipeline in range(len(forward)):
            end, busy = run_workers(forward[pipeline], backward[pipeline], transfer)
            assert played.seconds[pipeline] == pytest.approx(end), trial
            assert played.idle[pipeline] == pytest.approx(end - np.array(busy)), trial


def test_the_timeline_is_that_of_the_first_pipeline():
    random = np.random.default_rng(0)
    schedule = Schedule(3, 2, 6)
    forward, backward = random.lognormal(0, 1, (2, 2, 3, 2, 6))
    played = play(schedule, forward, backward)
    assert max(one.end for one in played.timeline) == played.seconds[0]
    for stage in range(3):
        passes = [one for one in played.timeline if one.stage == stage]
        assert all(one.end <= after.start for one, after in pairwise(passes))
        busy = sum(one.end - one.start for one in passes)
        assert played.seconds[0] - busy == pytest.approx(played.idle[0, stage])


def test_durations_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="durations have shapes"):
        play(Schedule(2, 1, 2), np.ones((1, 2, 1, 3)), np.ones((1, 2, 1, 3)))
