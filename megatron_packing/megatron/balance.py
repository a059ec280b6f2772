# SPDX-License-Identifier: Apache-2.0
"""Step balance: the packs of a global batch dealt so that every data-parallel rank has equal work.

A step lasts as long as its slowest rank. Which rank takes which pack of a global batch does not
change the gradient, as the loss is divided by the trained tokens of the whole batch; so the packs
of each batch are put in an order of which Megatron's sampler hands every rank its share.
"""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from numpy.typing import NDArray

from megatron_packing import _core
from megatron_packing.errors import InputError
from megatron_packing.flops import LayerShape, WorkModel
from megatron_packing.megatron.dataset import PackedDataset
from megatron_packing.megatron.endless import EndlessDataset

# A dataloader's workers read ahead, by default two samples each, so neighboring batches meet.
_ORDERS_KEPT = 4


class BalancedDataset(torch.utils.data.Dataset):
    """A training dataset whose samples change places within their global batch.

    The members of every batch stay. Sample i is a function of the dataset, the numbers given here
    and i alone.
    """

    def __init__(
        self,
        dataset: PackedDataset | BlendedDataset | EndlessDataset,
        *,
        global_batch_size: int,
        data_parallel_size: int,
        work_model: WorkModel,
        first_sample: int = 0,
    ) -> None:
        """Wrap a dataset.

        Args:
            dataset: Of packs, or a blend of such.
            global_batch_size: Packs of a batch, over all ranks.
            data_parallel_size: Ranks, of which each takes every ``data_parallel_size``-th sample.
            work_model: What is to be equal.
            first_sample: Where one batch starts and, counted from there, all others.

        Raises:
            ValueError: A size is below 1.
            InputError: The batch is not a whole number of packs for each rank.
        """
        if data_parallel_size < 1 or global_batch_size < 1:
            raise ValueError(
                f"global_batch_size is {global_batch_size} and data_parallel_size "
                f"{data_parallel_size}; they must be at least 1"
            )
        if global_batch_size % data_parallel_size:
            raise InputError(
                f"--global-batch-size is {global_batch_size}, which {data_parallel_size} "
                f"data-parallel ranks do not share evenly; give a multiple of {data_parallel_size}"
            )
        self.dataset = dataset
        self._samples = EndlessDataset(dataset) if isinstance(dataset, BlendedDataset) else dataset
        # Megatron's dataloaders ask for it.
        self.split = dataset.index_split if isinstance(dataset, PackedDataset) else dataset.split
        self.config = dataset.config
        self._batch_size = global_batch_size
        self._num_ranks = data_parallel_size
        self._work_model = work_model
        self._phase = first_sample % global_batch_size
        self._orders: dict[int, NDArray[np.int64]] = {}  # the last used, by the batch's start

    def __len__(self) -> int:
        """Samples of the wrapped dataset."""
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """Lay out the sample that stands at ``idx`` after balancing."""
        return self.dataset[self.source(int(idx))]

    def source(self, idx: int) -> int:
        """The sample of the wrapped dataset that stands at ``idx``."""
        place = (idx - self._phase) % self._batch_size
        start = idx - place
        if start < 0 or start + self._batch_size > len(self):
            return idx  # an incomplete batch stays as it is
        if start not in self._orders:
            order = self._balance(start)  # first: at worst the cache keeps what it had
            if len(self._orders) == _ORDERS_KEPT:
                del self._orders[next(iter(self._orders))]
            self._orders[start] = order
        return start + int(self._orders[start][place])

    def _balance(self, start: int) -> NDArray[np.int64]:
        batch = range(start, start + self._batch_size)
        work = [self._work_model.work(self._samples.segment_lengths(sample)) for sample in batch]
        return _core.balance(np.array(work, np.int64), self._num_ranks)


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
        work_model=LayerShape(
            hidden_size=args.hidden_size,
            ffn_hidden_size=args.ffn_hidden_size,
            num_heads=args.num_attention_heads,
            num_query_groups=(
                args.num_query_groups if args.group_query_attention else args.num_attention_heads
            ),
            kv_channels=args.kv_channels,
            gated=args.swiglu,
        ).work_model(),
        # Batches start where training goes on: with another batch size before, not at a multiple.
        first_sample=args.consumed_train_samples if first_sample is None else first_sample,
    )
