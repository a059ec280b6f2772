# SPDX-License-Identifier: Apache-2.0
"""What is dealt to workers that come and go, on a stand-in for Ray in which time is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_packing.errors import InputError
from megatron_packing.records.batches import Position, RecordBatch
from megatron_packing.tokenize import ray_pool
from megatron_packing.tokenize.engine import WorkerCount
from megatron_packing.tokenize.ray_pool import RayPool


class RayError(Exception):
    actor_init_failed = False


class TaskError(RayError):
    pass


class StartError(RayError):
    actor_init_failed = True


@dataclass(eq=False)
class Ref:
    work: Callable[[], object]
    result: object = None
    error: Exception | None = None
    is_done: bool = False

    def finish(self, error: Exception | None = None) -> None:
        self.is_done, self.error = True, error
        if error is None:
            self.result = self.work()


@dataclass(eq=False)
class Actor:
    cluster: Ray
    node: str = ""  # none until a core is free
    is_alive: bool = True
    refs: list[Ref] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.load = SimpleNamespace(remote=lambda: self.submit(lambda: (100, self.node)))
        self.encode = SimpleNamespace(
            remote=lambda batch: self.submit(lambda: f"{batch.first} encoded")
        )

    def submit(self, work: Callable[[], object]) -> Ref:
        ref = Ref(work)
        if self.is_alive:
            self.refs.append(ref)
        else:
            ref.finish(RayError("the actor is dead"))
        return ref

    def die(self, error: Exception | None = None, with_results: bool = False) -> None:
        """Lose what is not done; and what is, where its node had it."""
        self.is_alive = False
        for ref in self.refs:
            if with_results or not ref.is_done:
                ref.finish(error or RayError("much\nthe node died"))


class Ray:
    """What RayPool uses of the module, for a cluster of nodes with some cores each."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=TaskError)

    def __init__(self, *cores: int, step: Callable[[Ray], None] | None = None) -> None:
        self.nodes: dict[str, int] = {}
        self.num_nodes = 0
        self.add(*cores)
        self.step = step or Ray.work
        self.actors: list[Actor] = []
        self.now = 0.0

    def add(self, *cores: int) -> None:
        for number in cores:
            self.nodes[f"node {self.num_nodes}"] = number
            self.num_nodes += 1

    def lose(self, node: str, with_results: bool = False) -> None:
        del self.nodes[node]
        for actor in self.alive():
            if actor.node == node:
                actor.die(with_results=with_results)

    def alive(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.is_alive]

    def place(self) -> None:
        free = Counter(self.nodes)
        free.subtract(actor.node for actor in self.alive() if actor.node)
        for actor in self.alive():
            for node in self.nodes:
                if not actor.node and free[node] > 0:
                    actor.node = node
                    free[node] -= 1

    def work(self, actor: Actor | None = None) -> None:
        """Let one worker, or all, do the first thing that they have to do."""
        self.place()
        for one in [actor] if actor else self.alive():
            ref = next((ref for ref in one.refs if not ref.is_done), None)
            if one.node and ref is not None:
                ref.finish()

    # As in Ray:

    def start(self) -> Actor:
        self.actors.append(Actor(self))
        return self.actors[-1]

    def wait(
        self, refs: list[Ref], num_returns: int, timeout: float
    ) -> tuple[list[Ref], list[Ref]]:
        assert refs
        assert len(set(refs)) == len(refs)
        if timeout and not any(ref.is_done for ref in refs):
            self.step(self)
            if not any(ref.is_done for ref in refs):
                self.now += timeout
        found = [ref for ref in refs if ref.is_done][:num_returns]
        return found, [ref for ref in refs if ref not in found]

    def get(self, ref: Ref) -> object:
        assert ref.is_done, "Ray would wait"
        if ref.error is not None:
            raise ref.error
        return ref.result

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def kill(self, actor: Actor) -> None:
        if actor.is_alive:
            actor.die()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(sum(self.nodes.values()))} if self.nodes else {}

    def available_resources(self) -> dict[str, float]:
        taken = sum(bool(actor.node) for actor in self.alive())
        free = sum(self.nodes.values()) - taken
        return {"CPU": float(free)} if free else {}  # as Ray says nothing for 0


@pytest.fixture
def pool(monkeypatch):
    """Make a pool on a cluster, whose clock it reads, and the list of what it says."""

    def pool(ray: Ray, wanted: int | None) -> tuple[RayPool, list[WorkerCount]]:
        clock = SimpleNamespace(monotonic=lambda: ray.now, sleep=ray.sleep)
        monkeypatch.setattr(ray_pool, "time", clock)
        counts: list[WorkerCount] = []
        return RayPool(ray, ray.start, wanted, counts.append), counts

    return pool


def batches(count: int) -> list[RecordBatch]:
    return [RecordBatch(0, 10 * number + 1, [], 10, Position(), number) for number in range(count)]


def encoded(given: list[RecordBatch]) -> list[tuple[RecordBatch, str]]:
    return [(batch, f"{batch.first} encoded") for batch in given]


@given(seed=st.integers(0, 1 << 32), wanted=st.sampled_from([None, 1, 3, 8]))
def test_every_batch_comes_once_and_in_order_whatever_is_lost(seed: int, wanted: int | None):
    random = Random(seed)

    def step(ray: Ray) -> None:
        happens = random.random()
        ray.now += random.choice([0.0, 0.1, 1.0])
        if happens < 0.1 and ray.nodes:
            ray.lose(random.choice(list(ray.nodes)), with_results=random.random() < 0.5)
        elif happens < 0.2 and ray.alive():
            random.choice(ray.alive()).die()
        elif happens < 0.3 or not ray.nodes:
            ray.add(random.randint(1, 3))
        elif ray.alive():
            ray.work(random.choice(ray.alive()))

    given_batches = batches(random.randint(0, 40))
    ray = Ray(*random.choices([0, 1, 2], k=3), step=step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_pool, "_MOST_LOSSES", 1 << 30)
        patch.setattr(ray_pool, "NO_WORKER_SECONDS", 1e9)
        patch.setattr(ray_pool, "time", SimpleNamespace(monotonic=lambda: ray.now, sleep=ray.sleep))
        pool = RayPool(ray, ray.start, wanted, None)
        assert pool.vocabulary_size == 100
        assert list(pool.encode(given_batches)) == encoded(given_batches)
        pool.close()
    assert not ray.alive()


def test_a_lost_node_leaves_fewer_workers_and_a_new_one_brings_them_back(pool, caplog):
    seen = []

    def step(ray: Ray) -> None:
        seen.append(None)
        ray.now += 1
        if len(seen) == 20:
            ray.lose("node 1")
        if len(seen) == 40:
            ray.add(2)
        ray.work()

    ray = Ray(1, 2, step=step)
    workers, counts = pool(ray, 3)
    assert list(workers.encode(batches(200))) == encoded(batches(200))
    assert counts == [WorkerCount(3, 3, 2), WorkerCount(1, 3, 1), WorkerCount(3, 3, 2)]
    assert caplog.messages == [
        "Ray cluster: 2 workers lost, whose batches are encoded again; 1 of 3 workers on 1 node; "
        "more start when the cluster has cores for them",
        "Ray cluster: 3 workers on 2 nodes",
    ]
    workers.close()
    assert not ray.alive()


def test_without_a_number_of_workers_all_free_cores_are_used_and_those_of_new_nodes(pool, caplog):
    def step(ray: Ray) -> None:
        ray.now += 0.5
        if ray.now == 10:
            ray.add(2, 1)
        ray.work()

    ray = Ray(2, 1, step=step)
    ray.start().node = "node 0"  # of another program
    workers, counts = pool(ray, None)
    list(workers.encode(batches(200)))
    assert counts[0] == WorkerCount(0, 2, 0)
    assert counts[1] == WorkerCount(2, 2, 2)
    assert counts[-1] == WorkerCount(5, 5, 4)
    assert len(ray.actors) == 6, "no more than there are cores for"
    assert not caplog.messages


def test_fewer_cores_than_workers_are_used_and_it_is_said(pool, caplog):
    ray = Ray(1, 1, step=lambda ray: (ray.sleep(1), ray.work()))
    workers, _ = pool(ray, 5)
    assert list(workers.encode(batches(50))) == encoded(batches(50))
    assert caplog.messages == [
        "Ray cluster: 2 of 5 workers on 2 nodes; more start when the cluster has cores for them"
    ]


def test_a_run_without_a_worker_waits_ten_minutes_and_can_be_continued(pool, caplog):
    ray = Ray()
    workers, _ = pool(ray, 2)
    with pytest.raises(
        InputError,
        match=r"the Ray cluster has had no worker for 10 minutes; add nodes or wait until cores "
        r"are free, and run the same command again to continue where it stopped$",
    ):
        _ = workers.vocabulary_size
    assert 600 <= ray.now < 605
    assert caplog.messages == [
        "Ray cluster: 0 of 2 workers on 0 nodes; waiting up to 10 minutes for a core"
    ]


def test_the_ten_minutes_begin_with_the_last_loss(pool):
    lose = lambda ray: ray.lose(next(iter(ray.nodes)))  # noqa: E731
    add = lambda ray: ray.add(1)  # noqa: E731
    events = [(100, lose), (690, add), (800, lose), (1390, add)]

    def step(ray: Ray) -> None:
        ray.now += 1
        if events and ray.now >= events[0][0]:
            events.pop(0)[1](ray)
        ray.work()

    workers, counts = pool(Ray(1, step=step), 1)
    assert len(list(workers.encode(batches(1000)))) == 1000
    assert [count.ready for count in counts] == [1, 0, 1, 0, 1]


def test_a_batch_that_takes_every_worker_with_it_is_named(pool):
    def step(ray: Ray) -> None:
        ray.now += 1
        ray.place()
        for actor in ray.alive():
            waiting = [ref for ref in actor.refs if not ref.is_done]
            if waiting and actor.node and waiting[0].work() == "201 encoded":
                actor.die()
        ray.work()

    workers, _ = pool(Ray(1, 1, step=step), 2)
    with pytest.raises(
        InputError,
        match=r"5 workers on the Ray cluster were lost one after another, each while it encoded "
        r"records 201 to 210 of input 1, most likely because memory ran out \(the node died\); .*"
        r"run the same command again to continue where it stopped$",
    ):
        list(workers.encode(batches(100)))


def test_a_node_that_starts_no_worker_does_not_end_a_run_and_all_of_them_do(pool):
    broken = {"node 0"}

    def step(ray: Ray) -> None:
        ray.now += 1
        ray.place()
        for actor in ray.alive():
            if actor.node in broken:
                actor.die(StartError("much\nNo module named 'megatron_packing'"))
        ray.work()

    workers, counts = pool(Ray(1, 1, 1, step=step), 3)
    assert list(workers.encode(batches(100))) == encoded(batches(100))
    assert counts[-1] == WorkerCount(2, 3, 2)
    broken |= {"node 1", "node 2"}
    ray = Ray(1, 1, 1, step=step)
    workers, _ = pool(ray, 3)
    with pytest.raises(
        InputError,
        match=r"no worker can be started on the Ray cluster \(No module named "
        r"'megatron_packing'\); mend that, and run the same command again",
    ):
        _ = workers.vocabulary_size
    assert ray.now < 10


def test_what_an_encoder_raises_ends_the_run_at_once(pool):
    def step(ray: Ray) -> None:
        ray.work()
        for actor in ray.alive():
            for ref in actor.refs[3:]:
                ref.finish(TaskError("it cannot be used"))

    workers, _ = pool(Ray(1, step=step), 1)
    with pytest.raises(TaskError, match="it cannot be used"):
        list(workers.encode(batches(20)))
