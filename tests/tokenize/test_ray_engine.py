# SPDX-License-Identifier: Apache-2.0
"""The same bytes from a Ray cluster of two nodes."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest

pytest.importorskip("transformers")
pytest.importorskip("ray")

import ray

from megatron_packing.errors import InputError
from megatron_packing.tokenize.run import TokenizeOptions, tokenize
from tests.conftest import ROOT

ENDINGS = (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", "_corpus.json")


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20},
        )
        nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
        ray.init(
            address=nodes.address,
            logging_level="error",
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )
        yield nodes
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture
def run(chitchat, tmp_path):
    def run(path, name, **changes):
        options = TokenizeOptions(
            inputs=[path],
            output_prefix=tmp_path / name,
            tokenizer=str(chitchat / "tokenizer"),
            **changes,
        )
        return tokenize(options)

    return run


pytestmark = [
    pytest.mark.slow,  # the cluster alone starts for half a minute
    pytest.mark.timeout(280),
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_two_nodes_write_the_bytes_of_one_process(run, some_conversations, tmp_path):
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    run(some_conversations, "ray", engine="ray", workers=None)
    run(some_conversations, "local")
    for ending in ENDINGS:
        ours, theirs = (tmp_path / f"{name}{ending}" for name in ("ray", "local"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_bad_record_is_named_from_a_node(run, write_jsonl):
    good = {"prompt": "a", "completion": "b"}
    with pytest.raises(InputError, match=r"input.jsonl, line 2 cannot be used: it is not JSON"):
        run(write_jsonl(good, "{", good), "bad", engine="ray", workers=2)


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
