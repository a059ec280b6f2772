# SPDX-License-Identifier: Apache-2.0
"""The sections of a page about predicted steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from megatron_packing.page.charts import draw_shares
from megatron_packing.page.lanes import Bar, draw_lanes
from megatron_packing.page.parts import figure, table
from megatron_packing.page.timeline import draw_timeline
from megatron_packing.planning.strategies import BEST
from megatron_packing.report.data_report import BALANCED, LengthReport
from megatron_packing.report.simulate import duration
from megatron_packing.simulate.epoch import Epoch
from megatron_packing.simulate.step import Parts

_RANKS_DRAWN = 8
_PART_NAMES = {
    "linear": "linear layers, documents",
    "padding": "linear layers, padding",
    "attention": "attention",
    "communication": "tensor and expert parallelism",
    "overhead": "overhead of layers",
    "experts_wait": "waiting for experts",
    "pipeline": "waiting in the pipeline",
    "ranks_wait": "waiting for the slowest rank",
    "update": "gradients and optimizer",
}


def show_ranks(main: LengthReport) -> Iterator[str]:
    """Work of ranks and micro-batches, dealt in turn and balanced."""
    in_turn, balanced = (main.epoch(way) for way in (BEST, BALANCED))
    ranks = main.simulation.costs.layout.data
    yield "<h2>How even the work is</h2>"
    yield (
        "<p>Rows have equally many positions, but attention costs more in long documents. A step "
        "lasts until its slowest data-parallel rank is done. Which rank takes which row of a step "
        "changes no gradient, so <code>--packing-balance</code> deals them by work.</p>"
    )
    header = ("", "slowest rank", "slowest micro-batch", "longest step", "idle", "step")
    body = []
    for name, epoch in (("in turn", in_turn), ("balanced", balanced)):
        found = epoch.prediction
        longest = float(found.steps_seconds.max() / found.step_seconds)
        body.append(
            (
                name,
                f"{found.slowest_rank:.3f} of the mean",
                f"{found.slowest_micro_batch:.3f} of the mean",
                f"{longest:.3f} of the mean",
                f"{found.idle_share:.1%}",
                duration(found.step_seconds),
            )
        )
    yield table(header, body)
    yield (
        '<p class="note">Slowest micro-batch: what ranks wait that meet in every micro-batch, as '
        "under expert parallelism or fully sharded parallelism.</p>"
    )
    if ranks == 1:
        yield "<p>This layout has one data-parallel rank, so there is nothing to deal.</p>"
        return
    lanes_of = "each rank" if ranks <= _RANKS_DRAWN else f"{_RANKS_DRAWN} of {ranks:,} ranks"
    for name, epoch in (("In turn", in_turn), ("Balanced", balanced)):
        yield f"<h3>{name}: the first step, a lane for {lanes_of}, a block for each row</h3>"
        yield figure(_rank_lanes(epoch, in_turn), kind="packed")


def _rank_lanes(epoch: Epoch, longest: Epoch) -> str:
    seconds = epoch.prediction.row_seconds[0]
    total = float(max(longest.prediction.row_seconds[0].sum(axis=1).max(), 1e-12))
    drawn = []
    for rank, rows in enumerate(seconds[:_RANKS_DRAWN].tolist()):
        bars, at = [], 0.0
        for number, length in enumerate(rows):
            kind = "abcd"[number % 4]
            text = f"rank {rank}, micro-batch {number}: {length:.3g} s in all stages"
            bars.append(Bar(at, length, kind, text))
            at += length
        if at < total:
            bars.append(Bar(at, total - at, "p", "shorter than the slowest rank in turn"))
        drawn.append((f"rank {rank}", bars))
    return draw_lanes(drawn, total=total, title=f"work of ranks, {epoch.way}")


def show_time(main: LengthReport) -> Iterator[str]:
    """Where the time of a step goes, and a pipeline's timeline."""
    yield "<h2>Where predicted time goes</h2>"
    shares = {
        epoch.way: {
            _PART_NAMES[field.name]: getattr(epoch.prediction.parts, field.name)
            / epoch.prediction.step_seconds
            * 100
            for field in fields(Parts)
        }
        for epoch in main.simulation.epochs
    }
    yield figure(
        draw_shares(shares, "% of a step, mean over all GPUs"),
        "Steps have equally many rows, so padded steps hold fewer documents.",
    )
    if main.simulation.costs.layout.pipeline == 1:
        return
    yield (
        "<p>The pipeline of the first rank in the first step: forward passes are light, backward "
        "passes orange, and gaps are waiting.</p>"
    )
    for way in (BEST, BALANCED):
        epoch = main.epoch(way)
        yield f"<h3>{way}</h3>"
        yield figure(draw_timeline(epoch.prediction.timeline, title=f"a step of {way}"))
