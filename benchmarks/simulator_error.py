# SPDX-License-Identifier: Apache-2.0
"""How wrong predicted steps are, beside measured ones.

    python benchmarks/simulator_error.py [--repeats N] [--steps N] [--json FILE]
    python benchmarks/simulator_error.py --gpu

Trains a small GPT by Megatron's own pretrain() on the CPU with padded, random, greedy, optimal and
balanced packs of three sets of lengths, on two pipeline stages and on two data-parallel ranks, one
thread each, and predicts the same steps. The rate of linear layers, that of attention, and the
seconds of a layer for a row and for each of its documents are fitted beforehand to passes of one
process on padded and optimal rows.

What is compared is the speed-up of an epoch over padding. Measured are the processor seconds of
each pass of each rank, in the order in which Megatron ran them, which must be that of the simulated
schedule. A step ends when these passes, one after another and each after what it needs, have ended.
So programs that share the machine disturb little, and waiting for a busy core is not counted. The
least of several runs counts. It runs in the test suite's environment (make environment-3.12).

``--gpu`` fits the efficiencies of an H100 to the rows in benchmarks/gpu/results/h100/rows.json,
prints the error of each, and predicts with them how much faster packed rows are on an H200.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_packing.flops.model import ModelShape  # noqa: E402
from megatron_packing.flops.models import MODELS  # noqa: E402
from megatron_packing.index.build import build_pack_index  # noqa: E402
from megatron_packing.index.pack_index import PackIndex  # noqa: E402
from megatron_packing.index.rows import rows_of_index  # noqa: E402
from megatron_packing.index.source import open_source  # noqa: E402
from megatron_packing.planning.settings import PlanSettings  # noqa: E402
from megatron_packing.report.console import console  # noqa: E402
from megatron_packing.simulate.costs import Costs  # noqa: E402
from megatron_packing.simulate.deal import deal_epoch  # noqa: E402
from megatron_packing.simulate.epoch import WAYS  # noqa: E402
from megatron_packing.simulate.hardware import Device  # noqa: E402
from megatron_packing.simulate.layout import Layout  # noqa: E402
from megatron_packing.simulate.play import play  # noqa: E402
from megatron_packing.simulate.schedule import Schedule  # noqa: E402
from megatron_packing.simulate.step import predict_steps  # noqa: E402
from megatron_packing.stream.order import pack_at  # noqa: E402

ROW, BATCH, SEED = 1024, 8, 1234
MODEL = ModelShape(
    name="small",
    num_layers=4,
    hidden_size=192,
    ffn_hidden_size=512,
    num_heads=4,
    num_query_groups=4,
    vocabulary_size=1024,
)
FLAGS = f"""
    --num-layers {MODEL.num_layers} --hidden-size {MODEL.hidden_size}
    --ffn-hidden-size {MODEL.ffn_hidden_size} --num-attention-heads {MODEL.num_heads}
    --vocab-size {MODEL.vocabulary_size - 1} --seq-length {ROW} --max-position-embeddings {ROW}
    --global-batch-size {BATCH} --seed {SEED}
"""
DEALT = {"random": "", "balanced": "--packing-balance", "even": "--packing-order even"}
"""Flags by the way rows are dealt to ranks."""
TOPOLOGIES = {
    "PP 2": (Layout(data=1, pipeline=2), "--pipeline-model-parallel-size 2"),
    "DP 2": (Layout(data=2), ""),
}
SETS = {  # mean and sigma of the logarithms of lengths
    "short": (4.6, 0.5),
    "chat-like": (5.2, 1.0),
    "heavy tail": (5.6, 1.5),
}
FAST = 1e15  # links and memory: between processes of one machine they hardly count
FITTED_TO = ("padding", "optimal")


@dataclass(frozen=True, slots=True)
class Compared:
    """A measured and a predicted speed-up over padding."""

    lengths: str
    topology: str
    way: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted / self.measured - 1


def device(
    linear: float, attention: float, layer_seconds: float, document_seconds: float
) -> Device:
    """A processor that does so many operations a second in linear layers and in attention."""
    flops = max(linear, attention)
    return Device(
        name="CPU",
        flops=flops,
        memory=FAST,
        memory_bandwidth=FAST,
        node_bandwidth=FAST,
        network_bandwidth=FAST,
        linear_efficiency=linear / flops,
        attention_efficiency=attention / flops,
        layer_seconds=layer_seconds,
        document_seconds=document_seconds,
    )


def make_indexes(folder: Path, name: str) -> dict[str, PackIndex]:
    """Write a corpus of random tokens, and an index of each strategy."""
    from tests.conftest import write_corpus

    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(*SETS[name], 1500), 2, 4 * ROW).astype(np.int64)
    vocabulary = MODEL.vocabulary_size - 1
    corpus = write_corpus(folder / name.replace(" ", "_"), lengths, vocabulary=vocabulary)
    indexes = {}
    for strategy in dict.fromkeys(strategy for strategy, _ in WAYS.values()):
        settings = PlanSettings(sequence_length=ROW, strategy=strategy, overlong="split")
        place = folder / f"{name}_{strategy}".replace(" ", "_")
        indexes[strategy] = build_pack_index(corpus, settings, place)
    return indexes


def measure(
    index: PackIndex, layout: Layout, flags: str, steps: int, repeats: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Processor seconds of forward and backward passes of all steps but the first.

    Returns:
        Each of shape ``(steps, data, pipeline, micro-batches)``: the least of several runs.
    """
    from tests.trainer import train

    rows = BATCH // layout.data
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            train(
                f"{FLAGS} {flags} --train-iters {steps + 1} --data-path {index.corpus.prefix} "
                f"--packing-indexes {index.path}",
                layout.gpus,
                script=ROOT / "benchmarks" / "timed_pretrain.py",
                environment={"PASS_TIMES": f"{name}/passes"},
            )
            found = np.zeros((2, steps, layout.data, layout.pipeline, rows))
            for rank in range(layout.gpus):
                stage, replica = divmod(rank, layout.data)
                order = Schedule(layout.pipeline, 1, rows).order_of(stage)
                lines = Path(f"{name}/passes.{rank}").read_text().split("\n")[:-1]
                assert len(lines) == (steps + 1) * len(order)
                for step in range(steps):
                    at = (step + 1) * len(order)
                    for one, line in zip(order, lines[at : at + len(order)], strict=True):
                        kind, seconds = line.split()
                        assert kind == "FB"[one.is_backward], "Megatron ran another order"
                        found[int(one.is_backward), step, replica, stage, one.micro_batch] = seconds
            runs.append(found)
    least = np.min(runs, axis=0)
    return least[0], least[1]


def step_seconds(
    layout: Layout, forward: NDArray[np.float64], backward: NDArray[np.float64]
) -> float:
    """Mean seconds of a step whose passes take so long."""
    schedule = Schedule(layout.pipeline, 1, BATCH // layout.data)
    shape = (-1, layout.pipeline, 1, BATCH // layout.data)
    played = play(schedule, forward.reshape(shape), backward.reshape(shape))
    return float(played.seconds.reshape(-1, layout.data).max(axis=1).mean())


def order_of(index: PackIndex, steps: int) -> NDArray[np.int64]:
    """The packs of all steps but the first."""
    samples = range(BATCH, (steps + 1) * BATCH)
    return np.array([pack_at(sample, len(index), SEED) for sample in samples])


def fit(work: list[tuple[float, float, int]], seconds: list[float]) -> Device:
    """The device that predicts rows of one process best, in relative terms.

    Args:
        work: For each row the operations of linear layers and of attention, and its documents.
        seconds: What each row took.
    """
    layers = MODEL.num_layers
    columns = np.array(
        [(linear, attention, layers, layers * documents) for linear, attention, documents in work]
    )
    times = np.array(seconds)
    kept = [0, 1, 2, 3]
    while True:  # what has no cost of its own is left out
        scaled = columns[:, kept] / times[:, None]
        found, *_ = np.linalg.lstsq(scaled, np.ones(len(times)), rcond=None)
        if found.min() > 0:
            break
        del kept[int(found.argmin())]
    cost = dict(zip(kept, found.tolist(), strict=True))
    return device(1 / cost[0], 1 / cost.get(1, cost[0] / 100), cost.get(2, 0.0), cost.get(3, 0.0))


def compare(steps: int, repeats: int) -> Iterator[Compared]:
    """Measure and predict everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        indexes = {name: make_indexes(folder, name) for name in SETS}
        positions = {
            name: np.asarray(open_source(of_set["optimal"]).num_tokens, np.int64) - 1
            for name, of_set in indexes.items()
        }
        work, seconds = [], []
        for name, strategy in product(SETS, FITTED_TO):
            index = indexes[name][strategy]
            rows = rows_of_index(index, positions[name] + 1).take(order_of(index, steps))
            linear = float(ROW * MODEL.linear_flops_per_position)
            work += [
                (linear, float(MODEL.attention_flops_per_square * squares), int(documents))
                for squares, documents in zip(rows.squares.flat, rows.documents.flat, strict=True)
            ]
            forward, backward = measure(index, Layout(data=1), "", steps, repeats)
            seconds += (forward + backward).ravel().tolist()
        fitted = fit(work, seconds)
        console.print(
            f"linear layers {fitted.flops * fitted.linear_efficiency / 1e9:.1f} GFLOP/s, attention "
            f"{fitted.flops * fitted.attention_efficiency / 1e9:.1f} GFLOP/s, a layer takes "
            f"{fitted.layer_seconds * 1e3:.2f} ms more for a row and "
            f"{fitted.document_seconds * 1e3:.2f} ms for a document"
        )
        for (topology, (layout, flags)), name in product(TOPOLOGIES.items(), SETS):
            epochs: dict[str, tuple[float, float]] = {}
            for way, (strategy, dealing) in WAYS.items():
                index = indexes[name][strategy]
                rows = rows_of_index(index, positions[name] + 1)
                dealt = deal_epoch(
                    dealing,
                    rows,
                    num_ranks=layout.data,
                    pipelined=layout.pipeline > 1,
                    global_batch_size=BATCH,
                    model=MODEL.work_model(),
                    seed=SEED,
                    most_steps=steps + 1,
                )[1:]
                costs = Costs(model=MODEL, layout=layout, device=fitted)
                predicted = predict_steps(costs, rows, dealt).step_seconds
                more = f"{flags} {DEALT[dealing]}"
                measured = step_seconds(layout, *measure(index, layout, more, steps, repeats))
                epochs[way] = (len(index) * measured, len(index) * predicted)
            padding = epochs.pop("padding")
            for way, (measured, predicted) in epochs.items():
                ratios = (padding[0] / measured, padding[1] / predicted)
                yield Compared(name, topology, way, *ratios)


@dataclass(frozen=True, slots=True)
class GpuRow:
    """A kind of row that was measured on a GPU."""

    name: str
    work: tuple[float, float]
    """Operations of linear layers, and of attention."""
    seconds: float
    real_tokens: float
    """Of a row."""


def measured_rows(card: str) -> list[GpuRow]:
    """Read the rows that benchmarks/gpu measured; the first of each three are padded."""
    path = ROOT / "benchmarks" / "gpu" / "results" / card / "rows.json"
    rows = []
    for setting in json.loads(path.read_text(encoding="utf-8"))["settings"]:
        shape = replace(MODELS["8b"], num_layers=setting["layers"])
        linear = shape.linear_flops_per_position * setting["row"]
        for way, found in setting["ways"].items():
            seconds = found["seconds_per_row"]
            attention = found["computed_flops_per_second"] * seconds - linear
            name = f"{setting['corpus']}, {setting['row']:,}, {way}"
            tokens = found["real_tokens"] / found["rows"]
            rows.append(GpuRow(name, (linear, attention), seconds, tokens))
    return rows


def fit_rates(rows: list[GpuRow]) -> NDArray[np.float64]:
    """Return seconds per operation of linear layers and of attention."""
    work, times = np.array([row.work for row in rows]), np.array([row.seconds for row in rows])
    rates, *_ = np.linalg.lstsq(work / times[:, None], np.ones(len(times)), rcond=None)
    return rates


def print_gpu_errors() -> None:
    """Fit an H100's efficiencies and hold them against rows of both cards."""
    fitted, others = measured_rows("h100"), measured_rows("h200")
    rates = fit_rates(fitted)
    linear, attention = 1 / rates / 989e12
    console.print(f"linear efficiency {linear:.3f}, attention efficiency {attention:.3f}")
    table = Table("rows", "measured ms", "predicted ms", "error")
    for row in fitted:
        predicted = float(np.dot(row.work, rates))
        error = f"{predicted / row.seconds - 1:+.1%}"
        table.add_row(row.name, f"{row.seconds * 1e3:.0f}", f"{predicted * 1e3:.0f}", error)
    console.print(table)
    table = Table("H200: faster than padded rows", "measured", "predicted", "error")
    for first in range(0, len(others), 3):
        padded, *packed = others[first : first + 3]
        for row in packed:  # random and packed
            ratio = row.real_tokens / padded.real_tokens
            measured = ratio * padded.seconds / row.seconds
            predicted = ratio * float(np.dot(padded.work, rates) / np.dot(row.work, rates))
            error = f"{predicted / measured - 1:+.1%}"
            table.add_row(row.name, f"{measured:.2f}", f"{predicted:.2f}", error)
    console.print(table)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.gpu:
        print_gpu_errors()
        return
    table = Table("lengths", "layout", "way", "measured", "predicted", "error")
    results = []
    for one in compare(args.steps, args.repeats):
        results.append(one)
        console.print(f"{one.lengths}, {one.topology}, {one.way}: {one.error:+.1%}")
        numbers = (f"{one.measured:.2f}", f"{one.predicted:.2f}", f"{one.error:+.1%}")
        table.add_row(one.lengths, one.topology, one.way, *numbers)
    console.print(table)
    worst = max(abs(one.error) for one in results)
    console.print(f"largest error {worst:.1%}")
    if args.json is not None:
        write_json(args.json, [asdict(one) | {"error": one.error} for one in results])


if __name__ == "__main__":
    main()
