# SPDX-License-Identifier: Apache-2.0
"""Shows how long ranks wait for each other, by the order of packs."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from megatron_packing.counted import counted
from megatron_packing.simulate.deal import Dealing
from megatron_packing.simulate.waiting import Waiting

_ORDERS: dict[Dealing, str] = {
    "random": "default",
    "balanced": "--packing-balance",
    "even": "--packing-order even",
}


def describe_waiting(
    waiting: Mapping[Dealing, Waiting],
    *,
    model_name: str,
    num_ranks: int,
    global_batch_size: int,
    pipeline: int,
) -> Group:
    """Lay out a table with a row for each order, and notes that explain it."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("order", style="bold", no_wrap=True)
    for name in ("slowest\nrank", "slowest\nmicro-batch", "idle in\nattention"):
        table.add_column(name, justify="right")
    if pipeline > 1:
        table.add_column("step /\nequal", justify="right")
    table.add_column("spread\nof steps", justify="right")
    for name, one in waiting.items():
        cells = [f"{one.slowest_rank:.3f}", f"{one.slowest_micro_batch:.3f}"]
        cells.append(f"{one.idle_attention:.1%}")
        if pipeline > 1:
            cells.append(f"{one.step_over_equal:.3f}")
        table.add_row(_ORDERS[name], *cells, f"{one.spread_of_steps:.1%}")
    notes = [
        f"Computed from floating-point operations of {model_name}, not measured.",
        "Slowest rank: its work over the mean; data parallelism waits for it once a step.",
        "Slowest micro-batch: the most work of a rank over the mean, in each of them; pipeline, "
        "expert and fully sharded parallelism wait for it.",
        "Idle in attention: share of a micro-batch's attention that ranks wait. Spread: standard "
        "deviation of a step's work.",
        *(
            ["Step / equal: the time of a step over that of a step of equal micro-batches."]
            if pipeline > 1
            else []
        ),
    ]
    title = (
        f"waiting of {counted(num_ranks, 'data-parallel rank')}"
        + (f" of {pipeline} pipeline stages" if pipeline > 1 else "")
        + f", steps of {counted(global_batch_size, 'row')}"
    )
    return Group(
        Text(title, style="bold"), Text(), table, Text(), Text("\n".join(notes), style="dim")
    )
