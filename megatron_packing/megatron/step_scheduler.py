# SPDX-License-Identifier: Apache-2.0
"""A scheduler for Megatron's own sequence packing inside a step."""

from __future__ import annotations

from typing import Any

from megatron_packing.megatron.versions import packing_scheduler_class
from megatron_packing.planning.step import plan_step


def step_scheduler(work: tuple[float, float] | None = None) -> type:
    """Return a scheduler class that deals the samples of a step by ``plan_step``.

    It stands in for ``DpBalancedScheduler`` of ``megatron/core/datasets/data_schedule.py``, which
    packs samples in the order in which they come::

        from megatron.core.datasets import data_schedule
        from megatron_packing.megatron.step_scheduler import step_scheduler

        balanced = data_schedule.PackingSchedulerEnum.DP_BALANCED
        data_schedule.scheduler_map[balanced] = step_scheduler(work=(24_576, 1))

    Every rank that reads data makes the same plan, as it does with Megatron's own. Context-parallel
    ranks share a micro-batch.

    Args:
        work: ``(a, b)`` if a sample costs ``a * length + b * length**2``; None for its length.

    Raises:
        InputError: This megatron-core has no such schedulers.
    """
    base: Any = packing_scheduler_class()

    class StepScheduler(base):
        """Deals the samples of a step so that ranks wait for no other in any micro-batch."""

        def get_groups_and_subsamples(
            self, sample_id_seqlens: list[tuple[int, int]]
        ) -> list[list[list[int]]]:
            """Deal samples to micro-batches.

            Args:
                sample_id_seqlens: Number of each sample, from 0 on, and its length with padding.

            Returns:
                ``groups[i][rank]``: the samples of the i-th micro-batch of each rank of data and
                context parallelism.

            Raises:
                ValueError: A sample is over the limit, or there are too few for one in every
                    micro-batch.
            """
            plan = plan_step(
                [length for _, length in sample_id_seqlens],
                budget=self.max_seqlen_per_dp_cp_rank * self.cp_size,
                num_ranks=self.dp_size,
                work=work,
                num_micro_batches_multiple_of=self.microbatch_group_size_per_vp_stage or 1,
            )
            ranks = [[batch.tolist() for batch in batches] for batches in plan.micro_batches]
            return [
                [batch for batch in batches for _ in range(self.cp_size)]
                for batches in zip(*ranks, strict=True)
            ]

    return StepScheduler
