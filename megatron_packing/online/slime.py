# SPDX-License-Identifier: Apache-2.0
"""The schedule of a rollout's steps, as slime asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_packing.counted import counted
from megatron_packing.planning.step import StepPlan, costs_of, plan_step

Schedule = tuple[list[list[int]], list[list[list[int]]], list[int], list[int]]


def build_dp_schedule(
    args: Any,
    train_parallel_config: Mapping[str, int],
    total_lengths: Sequence[int],
    *,
    global_batch_size: int,
    rollout_indices: Sequence[int],
    work: tuple[float, float] | None = None,
) -> Schedule:
    """Deal the samples of a rollout to steps, ranks and micro-batches.

    Replaces ``build_dp_schedule`` in ``slime.utils.dp_schedule``. Give ``work`` beforehand:
    ``functools.partial(build_dp_schedule, work=(24_576, 1))``. Micro-batches are even in each step
    whatever ``balance_data`` and ``balance_by_flops`` say, and never over the token limit for it.

    Args:
        args: Has ``use_dynamic_batch_size``; with it ``max_tokens_per_gpu``, tokens of a
            micro-batch for each context-parallel rank; without it ``micro_batch_size``, the samples
            of every micro-batch.
        train_parallel_config: ``dp_size``, ``cp_size``, ``vpp_size`` and
            ``microbatch_group_size_per_vp_stage``, a multiple of which is the number of
            micro-batches of a rank if ``vpp_size`` is above 1.
        total_lengths: Shape ``(num_samples,)``: tokens of each sample. A sample over the limit has
            a micro-batch to itself.
        global_batch_size: Rollouts of a step. Rollouts that fill no step are left out.
        rollout_indices: Shape ``(num_samples,)``: the rollout of each sample. Its samples are in
            one step.
        work: ``(a, b)`` if a sample costs ``a * length + b * length**2``; None for its length.

    Returns:
        Of each rank its samples; of each rank its micro-batches, as positions among its samples;
        of each step the micro-batches of a rank; of each step its rollouts.

    Raises:
        ValueError: There are too few rollouts for one step, or too few samples for one in every
            micro-batch; or samples do not fill micro-batches of a fixed size.
    """
    lengths = np.asarray(total_lengths)
    samples_of: dict[int, list[int]] = {}
    for sample, rollout in enumerate(rollout_indices):
        samples_of.setdefault(rollout, []).append(sample)
    rollouts = list(samples_of)
    num_steps = len(rollouts) // global_batch_size
    if num_steps == 0:
        raise ValueError(
            f"{counted(len(rollouts), 'rollout')} do not fill a step of {global_batch_size}; "
            f"sample more, or make global_batch_size smaller"
        )
    num_ranks = train_parallel_config["dp_size"]
    partitions: list[list[int]] = [[] for _ in range(num_ranks)]
    micro_batches: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    counts = []
    for step in range(num_steps):
        chosen = rollouts[step * global_batch_size : (step + 1) * global_batch_size]
        samples = np.array([sample for rollout in chosen for sample in samples_of[rollout]])
        plan = _plan(args, train_parallel_config, lengths[samples], work)
        counts.append(plan.num_micro_batches)
        for rank, batches in enumerate(plan.micro_batches):
            for batch in batches:
                begin = len(partitions[rank])
                partitions[rank].extend(samples[batch].tolist())
                micro_batches[rank].append(list(range(begin, begin + len(batch))))
    return partitions, micro_batches, counts, [global_batch_size] * num_steps


def _plan(
    args: Any,
    parallel: Mapping[str, int],
    lengths: NDArray[np.int64],
    work: tuple[float, float] | None,
) -> StepPlan:
    num_ranks = parallel["dp_size"]
    multiple = parallel["microbatch_group_size_per_vp_stage"] if parallel["vpp_size"] > 1 else 1
    if args.use_dynamic_batch_size:
        budget = args.max_tokens_per_gpu * parallel["cp_size"]
        sizes, most = np.minimum(lengths, budget), None
    else:
        most = int(args.micro_batch_size)
        if len(lengths) % (most * num_ranks * multiple):
            raise ValueError(
                f"a step has {counted(len(lengths), 'sample')}, but --micro-batch-size {most} on "
                f"{counted(num_ranks, 'rank')} needs a multiple of {most * num_ranks * multiple}; "
                f"change the number of samples, or give --use-dynamic-batch-size"
            )
        budget, sizes = len(lengths), np.ones_like(lengths)
    return plan_step(
        sizes,
        budget=budget,
        num_ranks=num_ranks,
        work=costs_of(lengths, work),
        num_micro_batches_multiple_of=multiple,
        max_documents=most,
    )
