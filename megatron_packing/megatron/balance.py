# SPDX-License-Identifier: Apache-2.0
"""Step balance: reorder the packs of each global batch so that data-parallel ranks do equal work.

A step takes as long as its slowest rank. Which rank computes which pack of a global batch does not
change the gradient, because the loss is divided by the trained tokens of the whole batch. So the
packs of a batch are put into an order from which Megatron's sampler gives each rank equal work.
"""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from numpy.typing import NDArray

from megatron_packing.errors import InputError
from megatron_packing.flops.model import ModelShape, WorkModel
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.endless import EndlessDataset
from megatron_packing.megatron.layer_pattern import counted_symbols, layer_pattern
from megatron_packing.megatron.versions import flag_value
from megatron_packing.stream.balance import balance_batch
from megatron_packing.stream.batch_sizes import BatchSizes, Schedule
from megatron_packing.stream.even_order import EvenSettings
from megatron_packing.stream.recent import keep_recent

# Dataloader workers prefetch, by default two samples each, so consecutive batches interleave.
_ORDERS_KEPT = 4


class BalancedDataset(torch.utils.data.Dataset):
    """A training dataset whose samples are reordered within each global batch.

    Every batch keeps its members. Sample i depends on the dataset, these settings and i alone.
    """

    def __init__(
        self,
        dataset: PackedDataset | BlendedDataset | EndlessDataset,
        *,
        global_batch_size: int,
        data_parallel_size: int,
        work_model: WorkModel,
        first_sample: int = 0,
        pipelined: bool = False,
        schedule: Schedule | None = None,
    ) -> None:
        """Wrap a dataset.

        Args:
            dataset: A packed dataset, or a blend of packed datasets.
            global_batch_size: Packs in a batch, over all ranks.
            data_parallel_size: Number of ranks. Each takes every ``data_parallel_size``-th sample.
            work_model: The work that ranks share equally.
            first_sample: A sample where a batch starts. All batches are counted from it.
            pipelined: Whether ranks have several pipeline stages; see ``balance_batch``.
            schedule: Sizes of batches that change on the way, in place of ``global_batch_size``.

        Raises:
            ValueError: A size is below 1.
            InputError: A batch is not a whole number of packs for each rank.
        """
        if data_parallel_size < 1 or global_batch_size < 1:
            raise ValueError(
                f"global_batch_size is {global_batch_size} and data_parallel_size "
                f"{data_parallel_size}; they must be at least 1"
            )
        self._batches = BatchSizes(schedule or [(0, global_batch_size)], first_sample)
        for size in self._batches.sizes:
            if size % data_parallel_size:
                flag = "--step-batch-size-schedule has" if schedule else "--global-batch-size is"
                raise InputError(
                    f"{flag} {size}, which {data_parallel_size} data-parallel ranks do not share "
                    f"evenly; give a multiple of {data_parallel_size}"
                )
        self.dataset = dataset
        self._samples = EndlessDataset(dataset) if isinstance(dataset, BlendedDataset) else dataset
        # Megatron's dataloaders ask for it.
        self.split = dataset.index_split if isinstance(dataset, PackedDataset) else dataset.split
        self.config = dataset.config
        self._num_ranks = data_parallel_size
        self._work_model = work_model
        self._pipelined = pipelined
        self._orders: dict[
            int, NDArray[np.int64]
        ] = {}  # recently used, by the first sample of the batch

    def __len__(self) -> int:
        """Number of samples in the wrapped dataset."""
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """Return the sample at position ``idx`` of the balanced order."""
        return self.dataset[self.source(int(idx))]

    def source(self, idx: int) -> int:
        """Return the wrapped dataset's index of the sample at position ``idx``."""
        batch = self._batches.batch_of(idx)
        if batch.start < 0 or batch.stop > len(self):
            return idx  # an incomplete batch keeps its order
        if batch.start not in self._orders:
            order = self._balance(batch)  # before the eviction, so an error changes no state
            keep_recent(self._orders, batch.start, order, _ORDERS_KEPT)
        return batch.start + int(self._orders[batch.start][idx - batch.start])

    def _balance(self, batch: range) -> NDArray[np.int64]:
        work = [self._work_model.work(self._samples.segment_lengths(sample)) for sample in batch]
        return balance_batch(np.array(work, np.int64), self._num_ranks, pipelined=self._pipelined)


def balance_steps(
    dataset: PackedDataset | BlendedDataset | EndlessDataset | None,
    args: Namespace,
    *,
    first_sample: int | None = None,
) -> PackedDataset | BlendedDataset | EndlessDataset | BalancedDataset | None:
    """Balance the training dataset where ``--packing-balance`` asks for it.

    Args:
        dataset: The training dataset; None, on ranks without one, is given back.
        args: Megatron's arguments, with a checkpoint's consumed samples where one was loaded.
        first_sample: The number of the sample that training goes on with; None for the consumed
            samples.
    """
    if dataset is None or not args.packing_balance:
        return dataset
    return BalancedDataset(
        dataset,
        global_batch_size=args.global_batch_size,
        data_parallel_size=args.data_parallel_size,
        work_model=work_model_of(args),
        # Batches are counted from where training resumes, which may follow another batch size.
        first_sample=args.consumed_train_samples if first_sample is None else first_sample,
        pipelined=args.pipeline_model_parallel_size > 1,
        schedule=schedule_of(args),
    )


def schedule_of(args: Namespace) -> Schedule | None:
    """Return the sizes of batches of ``--step-batch-size-schedule``; None without it."""
    text = flag_value(args, "step_batch_size_schedule")
    if text is None:
        return None
    # Added in 0.18, as the flag.
    from megatron.core.num_microbatches_calculator import StepBatchsizeNumMicroBatchesCalculator

    calculator = StepBatchsizeNumMicroBatchesCalculator(
        micro_batch_size=1,
        data_parallel_size=args.data_parallel_size,
        decrease_batch_size_if_needed=False,
        rank=1,  # says nothing
        schedule=text,
        seq_length=args.seq_length,
    )
    found: Schedule = calculator.schedule
    return found


def work_model_of(args: Namespace) -> WorkModel:
    """Return the work of rows in the model of Megatron's arguments; experts count as MLPs."""
    pattern = _counted_layers(args)
    return ModelShape(
        name="the trained model",
        num_layers=len(pattern) or args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_heads=args.num_attention_heads,
        num_query_groups=(
            args.num_query_groups if args.group_query_attention else args.num_attention_heads
        ),
        kv_channels=args.kv_channels,
        gated_mlp=args.swiglu,
        hybrid_layer_pattern=pattern,
        mamba_state_dim=args.mamba_state_dim,
        mamba_head_dim=args.mamba_head_dim,
        mamba_num_groups=args.mamba_num_groups,
        mamba_num_heads=args.mamba_num_heads,
        mtp_num_layers=0 if pattern else args.mtp_num_layers or 0,
    ).work_model()


def even_settings_of(args: Namespace) -> EvenSettings | None:
    """Return what ``--packing-order even`` asks for; None for the random order."""
    if args.packing_order != "even":
        return None
    return EvenSettings.of(
        work_model_of(args), ranks=args.data_parallel_size, batch=args.global_batch_size
    )


def _counted_layers(args: Namespace) -> str:
    """Return the model's layers as a hybrid pattern; empty if all have attention and an MLP."""
    if pattern := layer_pattern(args):
        return counted_symbols(pattern)
    if args.experimental_attention_variant != "gated_delta_net":
        return ""
    every = args.linear_attention_freq
    if isinstance(every, int):  # the last of so many layers has attention
        every = [(layer + 1) % every != 0 for layer in range(args.num_layers)]
    return "".join("G-" if is_linear else "*-" for is_linear in every)
