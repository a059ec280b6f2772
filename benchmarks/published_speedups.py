# SPDX-License-Identifier: Apache-2.0
"""Predicts speed-ups that others published, and prints both.

    python benchmarks/published_speedups.py [--json FILE]

Each prediction takes from the publication what it tells of data, model and GPUs, and nothing of its
times. What it does not tell is assumed, and the table says so.

- arXiv 2410.08081, table 5: the numbers of steps are the paper's own, as its data sets are not at
  hand. What is predicted is the time of a step: rows of 4,096, without document masks, one row a
  GPU, 8B and 70B on 32 A800. So this tests that steps take the same time, not the packing.
- arXiv 2401.18058 (LongAlign): 10,000 documents of 8K to 64K tokens, log-uniform, and 76,000 of a
  lognormal with a median of 978 tokens and a mean of 2,700, cut to 64K (assumed); 8 A800; a batch
  of a document a GPU, whose longest decides (naive), batches of like lengths (sorted), or packs.
- arXiv 2503.17924 (WLB-LLM): 7B in rows of 128K on four pipeline stages, lognormal(7, 1.6) (both
  assumed). What its own packing can win at most is the time of unequal micro-batches over that of
  equal ones. Its sharding inside context-parallel groups, another part of its gain, is not in it.
- Megatron-LM's examples/dynamic_context_parallel/README.md: lognormal with the mean 1,024 and sigma
  1.5 cut to 128 to 8,192, groups of 4 against groups as large as each document needs at 2,048
  positions a GPU, on 4 to 64 GPUs. The model is not told; it is taken for 8B on H100.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from megatron_packing import plan_packs
from megatron_packing.flops.models import MODELS
from megatron_packing.planning.rows import Rows, rows_of_plan
from megatron_packing.simulate.costs import Costs
from megatron_packing.simulate.epoch import predict_epoch
from megatron_packing.simulate.hardware import DEVICES
from megatron_packing.simulate.layout import Layout
from megatron_packing.simulate.step import predict_steps

TABLE_5 = {  # set and model: steps of padding, random, greedy; published speed-ups of the last two
    "WildChat (GPT-4), 8B": (1964, 728, 492, 2.67, 3.86),
    "WildChat (GPT-4), 70B": (2943, 1092, 741, 2.54, 3.70),
    "TULU, 8B": (9183, 1928, 1956, 4.17, 3.69),
    "TULU, 70B": (13761, 2889, 2931, 4.17, 3.95),
    "WildChat, 8B": (18340, 5348, 4780, 3.43, 3.76),
    "WildChat, 70B": (27510, 8025, 7170, 3.39, 3.90),
    "Open-source 1M, 8B": (33064, 5400, 5104, 6.12, 6.27),
    "Open-source 1M, 70B": (49596, 8103, 7653, 6.18, 6.73),
}
LONG_ALIGN = {  # hours of naive, packed, sorted
    "ChatGLM3-6B": (45.4, 20.5, 19.1),
    "Llama-2-7B": (67.2, 23.4, 23.3),
    "Llama-2-13B": (117.2, 41.2, 44.5),
}
DYNAMIC_CP = {4: 1.285, 8: 1.412, 16: 1.212, 32: 1.375, 64: 1.495}  # GPUs: trimmed means


@dataclass(frozen=True, slots=True)
class Compared:
    """A published speed-up and its prediction."""

    source: str
    what: str
    published: float
    predicted: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was published."""
        return self.predicted / self.published - 1


def table_5() -> Iterator[Compared]:
    """Padding's epoch over that of random and greedy packs."""
    row = 4096
    rows = Rows(
        positions=np.array([row]),
        squares=np.array([row**2]),
        real_positions=np.array([row]),
        documents=np.array([1]),
    )
    for name, (padding, random, greedy, published_random, published_greedy) in TABLE_5.items():
        large = name.endswith("70B")
        costs = Costs(
            model=MODELS["70b" if large else "8b"],
            layout=Layout(data=4, tensor=8) if large else Layout(data=32),
            device=DEVICES["a800"],
        )
        step = predict_steps(costs, rows, np.zeros((1, costs.layout.data, 1), int)).step_seconds
        epochs = [steps * step for steps in (padding, random, greedy)]
        for way, seconds, published in (
            ("random", epochs[1], published_random),
            ("greedy", epochs[2], published_greedy),
        ):
            yield Compared("2410.08081", f"{name}: {way}", published, epochs[0] / seconds)


def whole_documents(lengths: NDArray[np.int64]) -> Rows:
    """Rows of one document each, without padding."""
    return Rows(
        positions=lengths,
        squares=lengths**2,
        real_positions=lengths,
        documents=np.ones(len(lengths), int),
    )


def long_align() -> Iterator[Compared]:
    """Naive batches over packed and over sorted ones."""
    random = np.random.default_rng(0)
    row = 65_536
    long = np.exp(random.uniform(np.log(8192), np.log(row), 10_000))
    sigma = np.sqrt(2 * np.log(2700 / 978))
    short = random.lognormal(np.log(978), sigma, 76_000)
    lengths = np.clip(np.concatenate([long, short]), 1, row).astype(np.int64)
    random.shuffle(lengths)
    lengths = lengths[: len(lengths) // 8 * 8]
    costs = Costs(model=MODELS["8b"], layout=Layout(data=8), device=DEVICES["a800"])
    packs = rows_of_plan(plan_packs(lengths, row), lengths)
    packs = packs.take(np.arange(len(packs) // 8 * 8))

    def epoch(rows: Rows, order: NDArray[np.int64]) -> float:
        return float(predict_steps(costs, rows, order.reshape(-1, 8, 1)).steps_seconds.sum())

    alone = whole_documents(lengths)
    naive = epoch(alone, np.arange(len(lengths)))
    ways = {
        "packed": epoch(packs, np.arange(len(packs))),
        "sorted": epoch(alone, np.argsort(lengths)),
    }
    for model, (hours, *others) in LONG_ALIGN.items():
        for (way, seconds), published in zip(ways.items(), others, strict=True):
            yield Compared("2401.18058", f"{model}: {way}", hours / published, naive / seconds)


def wlb_llm() -> Iterator[Compared]:
    """Steps of unequal micro-batches over steps of equal ones."""
    row, batch = 131_072, 16
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(7, 1.6, 200_000), 1, row).astype(np.int64)
    layout = Layout(data=1, tensor=8, pipeline=4, context=2)
    costs = Costs(model=MODELS["8b"], layout=layout, device=DEVICES["h100"])
    for strategy, name in (("random", "rows that cut documents"), ("optimal", "whole documents")):
        rows = rows_of_plan(plan_packs(lengths, row, strategy=strategy), lengths)
        found = predict_epoch(
            strategy, rows, costs, global_batch_size=batch, most_steps=64, seed=0, dealing="random"
        ).prediction
        bound = found.step_seconds / found.equal_seconds
        yield Compared("2503.17924", f"7B, 128K, {name}: at most", 1.33, bound)


def dynamic_context_parallelism() -> Iterator[Compared]:
    """Groups of 4 GPUs for every pack over groups that fit each document."""
    share, batches, micro_batches = 2048, 40, 8
    random = np.random.default_rng(0)
    model, device = MODELS["8b"], DEVICES["h100"]
    in_fours = Costs(model=model, layout=Layout(data=1, context=4), device=device)
    for gpus, published in DYNAMIC_CP.items():
        replicas = gpus // 4
        fixed = fitting = 0.0
        for _ in range(batches):
            mean = np.log(1024) - 1.5**2 / 2
            drawn = random.lognormal(mean, 1.5, replicas * micro_batches)
            lengths = np.clip(drawn, 128, 8192).astype(np.int64)
            # The baseline: documents in their order, as many as fit into a row of four shares.
            packs, left = [[]], 4 * share
            for length in lengths.tolist():
                if length > left:
                    packs.append([])
                    left = 4 * share
                packs[-1].append(length)
                left -= length
            packs += [[] for _ in range(-len(packs) % replicas)]
            filled = np.array([sum(pack) for pack in packs])
            rows = Rows(
                positions=filled,
                squares=np.array([sum(length**2 for length in pack) for pack in packs]),
                real_positions=filled,
                documents=np.array([len(pack) for pack in packs]),
            )
            times = _row_seconds(in_fours, rows).reshape(-1, replicas)
            fixed += times.max(axis=1).sum()
            # Dynamic: each document on as many GPUs as it needs; longest first, to whoever is free.
            free = np.zeros(gpus)
            for length in sorted(lengths.tolist(), reverse=True):
                size = 1 if length <= share else 2 if length <= 2 * share else 4
                layout = Layout(data=1, context=size)
                costs = Costs(model=model, layout=layout, device=device)
                groups = free.reshape(-1, size)
                group = int(groups.max(axis=1).argmin())
                one = _row_seconds(costs, whole_documents(np.array([length])))[0]
                groups[group] = groups[group].max() + one
            fitting += free.max()
        yield Compared("Megatron-LM", f"{gpus} GPUs: dynamic CP", published, fixed / fitting)


def _row_seconds(costs: Costs, rows: Rows) -> NDArray[np.float64]:
    layers = costs.model.num_layers
    forward, backward = (
        direction(rows, layers, has_logits=True).total
        for direction in (costs.forward, costs.backward)
    )
    return forward + backward


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    results = [*table_5(), *long_align(), *wlb_llm(), *dynamic_context_parallelism()]
    table = Table("source", "what", "published", "predicted", "error")
    for column in table.columns[2:]:
        column.justify = "right"
    for one in results:
        numbers = (f"{one.published:.2f}", f"{one.predicted:.2f}", f"{one.error:+.0%}")
        table.add_row(one.source, one.what, *numbers)
    Console().print(table)
    if args.json is not None:
        write_json(args.json, [asdict(one) | {"error": one.error} for one in results])


if __name__ == "__main__":
    main()
