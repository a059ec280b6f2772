# SPDX-License-Identifier: Apache-2.0
"""How other trainers plan a step, each by its own functions, for ``plan_step.py``."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ranks = list[list[list[int]]]
"""Of each rank its micro-batches: lists of documents."""
Planner = tuple[str, Callable[[NDArray[np.int64], int], tuple[Ranks, list[Callable[[], Any]]]]]
"""A name, and a function of lengths and ranks. It returns the plan and what to time: what one rank
computes."""

# Llama 2 7B, whose linear layers cost as much for a token as attention does for 24,576 others.
SHAPE = {
    "hidden_size": 4096,
    "ffn_hidden_size": 11_008,
    "num_attention_heads": 32,
    "num_query_groups": 32,
    "kv_channels": 128,
    "num_layers": 32,
    "vocab_size": 32_000,
    "num_experts": None,
}


def work_of(lengths: NDArray[np.int64], work: tuple[float, float]) -> NDArray[np.float64]:
    """Cost of each document."""
    return (work[0] + work[1] * lengths) * lengths


def verl_planner(wheel: Path, budget: int, work: tuple[float, float]) -> Planner:
    """Two functions of verl: which rank has which documents, and a rank's micro-batches.

    The number of micro-batches is raised until all ranks agree, as verl's ranks do by a reduction.
    The packages that its module imports for other functions (ray, tensordict) are stand-ins.
    """
    import torch

    verl = _load_verl(wheel)

    def plan(lengths: NDArray[np.int64], num_ranks: int) -> tuple[Ranks, list[Callable[[], Any]]]:
        costs = work_of(lengths, work).astype(np.int64).tolist()

        def deal() -> list[list[int]]:
            return verl.get_seqlen_balanced_partitions(costs, num_ranks, equal_size=True)

        def batch_of(documents: list[int]) -> dict[str, Any]:
            rows = [torch.zeros(int(lengths[document]), dtype=torch.int8) for document in documents]
            return {"input_ids": torch.nested.nested_tensor(rows, layout=torch.jagged)}

        shares = deal()
        batches = [batch_of(share) for share in shares]
        count = 1
        while True:
            split = [
                verl.rearrange_micro_batches(batch, budget, min_num_micro_batch=count)[1]
                for batch in batches
            ]
            most = max(len(rank) for rank in split)
            if most == min(len(rank) for rank in split):
                break
            count = most
        ranks = [
            [[share[i] for i in batch] for batch in rank]
            for share, rank in zip(shares, split, strict=True)
        ]

        def split_first_rank() -> Any:
            return verl.rearrange_micro_batches(batches[0], budget, min_num_micro_batch=count)

        return ranks, [deal, split_first_rank]

    return "verl 0.9.1", plan


def _load_verl(wheel: Path) -> SimpleNamespace:
    stand_ins = {
        "verl": {},
        "verl.protocol": {"DataProto": object},
        "verl.utils": {},
        "verl.utils.tensordict_utils": {"index_select_tensor_dict": lambda _batch, chosen: chosen},
        "verl.utils.device": {"get_device_name": lambda: "cpu"},
    }
    for name, names in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(names)
        sys.modules[name] = module
    sys.modules["verl.utils"].tensordict_utils = sys.modules["verl.utils.tensordict_utils"]
    source = zipfile.ZipFile(wheel).read("verl/utils/seqlen_balancing.py")
    namespace: dict[str, Any] = {"__name__": "verl.utils.seqlen_balancing"}
    exec(compile(source, f"{wheel}/seqlen_balancing.py", "exec"), namespace)
    return SimpleNamespace(**namespace)


def slime_planners(checkout: Path, budget: int) -> Iterator[Planner]:
    """The schedule of slime, with micro-batches by first fit and by its count of operations."""
    sys.path.insert(0, f"{checkout}")
    from slime.utils.dp_schedule import build_dp_schedule

    for name, by_flops in (("slime", False), ("slime, by FLOPs", True)):
        args = SimpleNamespace(
            **SHAPE,
            use_dynamic_batch_size=True,
            max_tokens_per_gpu=budget,
            balance_data=True,
            balance_by_flops=by_flops,
        )

        def plan(
            lengths: NDArray[np.int64], num_ranks: int, args: SimpleNamespace = args
        ) -> tuple[Ranks, list[Callable[[], Any]]]:
            parallel = {
                "dp_size": num_ranks,
                "cp_size": 1,
                "vpp_size": 1,
                "microbatch_group_size_per_vp_stage": 1,
            }

            def schedule() -> tuple[list[list[int]], Ranks, list[int], list[int]]:
                return build_dp_schedule(
                    args,
                    parallel,
                    lengths.tolist(),
                    global_batch_size=len(lengths),
                    rollout_indices=list(range(len(lengths))),
                )

            partitions, micro_batches, _, _ = schedule()
            ranks = [
                [[samples[i] for i in batch] for batch in batches]
                for samples, batches in zip(partitions, micro_batches, strict=True)
            ]
            return ranks, [schedule]

        yield name, plan


def nemo_rl_planner(checkout: Path, budget: int) -> Planner:
    """NeMo-RL's packer of its example configurations, whose bins go to ranks in turn."""
    algorithms = _load(checkout / "nemo_rl" / "data" / "packing" / "algorithms.py")

    def plan(lengths: NDArray[np.int64], num_ranks: int) -> tuple[Ranks, list[Callable[[], Any]]]:
        packer = algorithms.get_packer(
            "modified_first_fit_decreasing",
            budget,
            min_bin_count=num_ranks,
            bin_count_multiple=num_ranks,
        )

        def pack() -> list[list[int]]:
            return packer.pack(lengths.tolist())

        bins = pack()
        return [bins[rank::num_ranks] for rank in range(num_ranks)], [pack]

    return "NeMo-RL", plan


def megatron_planner(checkout: Path, budget: int) -> Planner:
    """The scheduler of Megatron-LM's main branch."""
    sys.path.insert(0, f"{checkout}")
    from megatron.core.datasets.data_schedule import DpBalancedScheduler

    def plan(lengths: NDArray[np.int64], num_ranks: int) -> tuple[Ranks, list[Callable[[], Any]]]:
        scheduler = DpBalancedScheduler(budget, 1, num_ranks, None)
        samples = list(enumerate(lengths.tolist()))

        def schedule() -> list[list[list[int]]]:
            return scheduler.get_groups_and_subsamples(samples)

        return [list(batches) for batches in zip(*schedule(), strict=True)], [schedule]

    return "Megatron-LM", plan


def _load(path: Path) -> ModuleType:
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
