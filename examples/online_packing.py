# SPDX-License-Identifier: Apache-2.0
"""Packs documents inside a training loop, whose lengths are known only when a step begins.

    python examples/online_packing.py

Each rank runs the same loop and plans for itself: the plan is the same everywhere. Here the ranks
are played one after another, and a step's rollouts are random numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_packing import plan_step

BUDGET, NUM_RANKS, DOCUMENTS = 8_192, 4, 256


def train(rank: int, step: int, rollouts: list[NDArray[np.int64]]) -> list[int]:
    """Run one rank's micro-batches; returns the tokens of each."""
    lengths = [len(rollout) for rollout in rollouts]
    plan = plan_step(lengths, budget=BUDGET, num_ranks=NUM_RANKS, work=(24_576, 1))
    if rank == 0:
        count = f"{plan.num_micro_batches} micro-batches a rank (at least {plan.lower_bound})"
        print(f"step {step}: {count}, rank {plan.rank:.4f}, sync {plan.sync:.4f}")
    tokens = []
    for documents in plan.micro_batches[rank]:
        row = np.concatenate([rollouts[document] for document in documents])
        cu_seqlens = np.cumsum([0, *(lengths[document] for document in documents)])
        assert cu_seqlens[-1] == len(row) <= BUDGET  # forward and backward go here
        tokens.append(len(row))
    return tokens


def main() -> None:
    """Train two steps."""
    random = np.random.default_rng(0)
    for step in range(2):
        lengths = random.lognormal(6.5, 0.8, DOCUMENTS).astype(int).clip(16, BUDGET)
        rollouts = [random.integers(0, 32_000, length) for length in lengths]
        seen = sum(sum(train(rank, step, rollouts)) for rank in range(NUM_RANKS))
        assert seen == lengths.sum()  # every token once


if __name__ == "__main__":
    main()
