# SPDX-License-Identifier: Apache-2.0
"""What a step costs under the ways to batch that people use now, by their own functions.

    python benchmarks/peers.py PREFIX... [--lengths FILE.npy] [--sequence-length L] [--json FILE]

Documents of one corpus are put into rows by each way, the rows dealt to data-parallel ranks, and
the floating-point operations of every rank counted. All ways see as many documents in a step.

    padding                 every document in a row of its own, padded to the sequence length
    longest of the batch    padded to the longest document of its micro-batch
    sorted batches          the same, with documents of like length together, by transformers'
                            DistributedLengthGroupedSampler (group_by_length)
    first fit, shuffled     Megatron-Bridge's first_fit_shuffle, the default of its packing
    best fit                TRL's pack_dataset, strategy bfd, in its windows of 1,000 documents
    megatron-packing        plan_packs; then the same, dealt to ranks as --packing-balance does

Documents longer than a row are cut at its end, as TRL and Bridge do. Attention is counted within
documents for all ways, so padding costs nothing there, which favors the ways that pad. A step lasts
as long as its slowest rank: "step" is that rank's operations, the mean of all steps, in units of
the last way's. It is computed, not measured. Communication is left out.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from machine import write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from megatron_packing import _core, plan_packs
from megatron_packing.commands.planning import open_documents
from megatron_packing.errors import InputError
from megatron_packing.flops.model import ModelShape
from megatron_packing.flops.models import MODELS

Rows = list[tuple[int, NDArray[np.int64]]]
"""Of each row its positions, padding among them, and the lengths of its documents."""
Lengths = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all ways have in common."""

    sequence_length: int
    ranks: int
    rows_per_step: int
    """Of packs; padded rows are as many documents as these hold."""
    micro_batch: int
    """Documents that are padded to one length."""
    model: ModelShape
    seeds: int
    documents_per_row: float
    """What a pack holds on average."""

    @property
    def micro_batches(self) -> int:
        """Padded micro-batches of a rank in a step."""
        documents = self.rows_per_step * self.documents_per_row
        return max(1, round(documents / self.ranks / self.micro_batch))


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one way costs."""

    way: str
    documents_per_step: float
    rows: int
    padding: float
    """Share of all computed positions."""
    slowest_rank: float
    """Its operations over the mean of the ranks, the mean of all steps."""
    step_flops: float
    """Of the slowest rank, for the documents of one step."""


def pad(lengths: Lengths, setting: Setting, widths: Lengths | None = None) -> Rows:
    """One document a row."""
    if widths is None:
        widths = np.full(len(lengths), setting.sequence_length)
    return [(int(w), lengths[i : i + 1]) for i, w in enumerate(widths)]


def widths_of(lengths: Lengths, micro_batch: int) -> Lengths:
    """The longest of each micro-batch, for each of its documents."""
    starts = np.arange(0, len(lengths), micro_batch)
    longest = np.maximum.reduceat(lengths, starts)
    return np.repeat(longest, np.diff(np.append(starts, len(lengths))))


def pad_to_longest(lengths: Lengths, setting: Setting, seed: int) -> Rows:
    """Each rank has its own micro-batches: consecutive documents of a shuffled order."""
    shuffled = np.random.default_rng(seed).permutation(lengths)
    return pad(shuffled, setting, widths_of(shuffled, setting.micro_batch))


def pad_sorted(lengths: Lengths, setting: Setting, seed: int) -> Rows:
    """Micro-batches of ranks that the sampler of transformers gives like documents at once."""
    import torch
    from transformers.trainer_pt_utils import DistributedLengthGroupedSampler

    torch.manual_seed(seed)
    ranks = []
    for rank in range(setting.ranks):
        sampler = DistributedLengthGroupedSampler(
            batch_size=setting.micro_batch * setting.micro_batches,  # as Trainer asks for
            num_replicas=setting.ranks,
            rank=rank,
            seed=seed,
            drop_last=True,
            lengths=lengths.tolist(),
        )
        mine = lengths[list(sampler)]
        whole = len(mine) // setting.micro_batch * setting.micro_batch
        ranks.append(mine[:whole].reshape(-1, setting.micro_batch))
    in_turn = np.stack(ranks, axis=1).reshape(-1)
    return pad(in_turn, setting, widths_of(in_turn, setting.micro_batch))


def pack_as_bridge(lengths: Lengths, setting: Setting, seed: int) -> Rows:
    """The packs of Megatron-Bridge."""
    try:
        import transformer_engine  # noqa: F401
    except ImportError:  # without GPUs Bridge's package is imported as the tests do
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        import megatron.core.models.gpt  # noqa: F401

        from tests.bridge.absent import prepare_bridge

        prepare_bridge()
    from megatron.bridge.data.packing.algorithms import first_fit_shuffle

    np.random.seed(seed)  # noqa: NPY002 - Bridge's function draws from it
    packs = first_fit_shuffle(lengths.tolist(), setting.sequence_length)
    return [(setting.sequence_length, np.array(pack)) for pack in packs]


def pack_as_trl(lengths: Lengths, setting: Setting, seed: int) -> Rows:
    """The packs of TRL."""
    import datasets
    from trl.data_utils import pack_dataset

    datasets.disable_progress_bars()
    shuffled = np.random.default_rng(seed).permutation(lengths)
    documents = datasets.Dataset.from_dict({"input_ids": [[0] * int(n) for n in shuffled]})
    packed = pack_dataset(documents, setting.sequence_length, strategy="bfd")
    return [(setting.sequence_length, np.array(pack)) for pack in packed["seq_lengths"]]


def pack(lengths: Lengths, setting: Setting, seed: int) -> Rows:
    """The packs of this project."""
    plan = plan_packs(lengths, setting.sequence_length, seed=seed)
    segments = lengths[plan.document_ids]
    packs = np.split(segments, plan.pack_offsets[1:-1])
    return [(setting.sequence_length, pack) for pack in packs]


def measure(way: str, setting: Setting, rows_of: Callable[[int], Rows]) -> Figures:
    """Deal the rows of each seed to ranks, step by step.

    Args:
        way: Its name.
        setting: What all have in common.
        rows_of: The rows for a seed, micro-batches one after another.
    """
    is_packed = way not in PADDED
    model, ranks = setting.model, setting.ranks
    size = 1 if is_packed else setting.micro_batch
    per_rank = setting.rows_per_step // ranks if is_packed else setting.micro_batches
    ratios, slowest, real, computed, counts = [], [], 0, 0, []
    for seed in range(setting.seeds):
        rows = rows_of(seed)
        counts.append(len(rows))
        real += sum(int(lengths.sum()) for _, lengths in rows)
        computed += sum(width for width, _ in rows)
        if is_packed:  # as a sampler does
            rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        linear = np.array([width for width, _ in rows]) * model.linear_flops_per_position
        squares = np.array([float(np.square(lengths).sum()) for _, lengths in rows])
        flops = linear + squares * model.attention_flops_per_square
        step = per_rank * size * ranks
        num_documents = np.array([len(lengths) for _, lengths in rows])
        for first in range(0, len(rows) - step + 1, step):
            work = flops[first : first + step]
            if way == BALANCED:
                work = work[_core.balance(work.astype(np.int64) >> 20, ranks)]
            by_rank = work.reshape(per_rank, ranks, size).sum(axis=(0, 2))
            ratios.append(by_rank.max() / by_rank.mean())
            seen = int(num_documents[first : first + step].sum())
            slowest.append((by_rank.max(), seen))
    seen = np.array([count for _, count in slowest])
    flops_per_document = sum(work for work, _ in slowest) / seen.sum()
    return Figures(
        way=way,
        documents_per_step=float(seen.mean()),
        rows=round(float(np.mean(counts))),
        padding=1 - real / computed,
        slowest_rank=float(np.mean(ratios)),
        step_flops=flops_per_document * setting.rows_per_step * setting.documents_per_row,
    )


PADDED = ("padding", "longest of the batch", "sorted batches")
BALANCED = "megatron-packing, --packing-balance"
WAYS: dict[str, tuple[str, Callable[[Lengths, Setting, int], Rows]]] = {
    PADDED[0]: ("", lambda lengths, setting, _: pad(lengths, setting)),
    PADDED[1]: ("transformers, TRL", pad_to_longest),
    PADDED[2]: ("transformers", pad_sorted),
    "first fit, shuffled": ("Megatron-Bridge", pack_as_bridge),
    "best fit": ("TRL", pack_as_trl),
    "megatron-packing": ("", pack),
    BALANCED: ("", pack),
}


def describe(figures: list[Figures], setting: Setting) -> Table:
    """The table."""
    last = figures[-1]
    table = Table(
        *("", "rows", "padding", "slowest rank", "step"),
        title=f"rows of {setting.sequence_length:,}, {setting.ranks} data-parallel ranks, "
        f"{last.documents_per_step:.0f} documents a step, {setting.model.name}",
        title_justify="left",
    )
    for one in figures:
        maker = WAYS[one.way][0]
        table.add_row(
            f"{one.way} ({maker})" if maker else one.way,
            f"{one.rows:,}",
            f"{one.padding:.1%}",
            f"{one.slowest_rank:.2f}",
            f"{one.step_flops / last.step_flops:.2f}",
            style="bold" if one is last else None,
        )
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prefixes", nargs="*", metavar="PREFIX")
    parser.add_argument("--lengths", type=Path, metavar="FILE.npy", help="as pack takes it")
    parser.add_argument("--sequence-length", type=int, default=8192)
    parser.add_argument("--ranks", type=int, default=16)
    parser.add_argument("--rows-per-step", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=4, help="padded rows (default 4)")
    parser.add_argument("--model", choices=MODELS, default="8b")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.rows_per_step % args.ranks:
        parser.error("--rows-per-step must be a multiple of --ranks")
    try:
        tokens = np.asarray(open_documents(args).num_tokens, np.int64)
    except InputError as error:
        parser.error(str(error))
    lengths = np.minimum(tokens[tokens > 1] - 1, args.sequence_length)
    packs = plan_packs(lengths, args.sequence_length).num_packs
    if packs < args.rows_per_step:
        parser.error(
            f"the documents make {packs} packs, fewer than the {args.rows_per_step} of a step; "
            f"give more documents or a smaller --rows-per-step"
        )
    setting = Setting(
        sequence_length=args.sequence_length,
        ranks=args.ranks,
        rows_per_step=args.rows_per_step,
        micro_batch=args.micro_batch,
        model=MODELS[args.model],
        seeds=args.seeds,
        documents_per_row=len(lengths) / packs,
    )
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # of Megatron and Bridge, on what they do without
    figures = [
        measure(way, setting, partial(make, lengths, setting)) for way, (_, make) in WAYS.items()
    ]
    Console(width=100, highlight=False).print(describe(figures, setting))
    if args.json is not None:
        write_json(args.json, [asdict(one) for one in figures])


if __name__ == "__main__":
    main()
